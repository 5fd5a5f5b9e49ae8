//! The committed corpus, and a seeded walk around it: what `cargo test` runs of the fuzz targets, without a
//! fuzzer and always the same. A failure prints the input.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// A small generator of our own (SplitMix64), so that a seed means the same in ten years.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }
}

/// Runs a body over every file of a corpus below `fuzz/corpus`, then over so many mutants of them.
pub(super) fn over(corpus: &str, mutants: usize, body: fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} is empty", path.display());
    let mut draws = Draws(1);
    for seed in &seeds {
        tell(seed, body);
    }
    for _ in 0..mutants {
        let mut input = seeds[draws.below(seeds.len())].clone();
        for _ in 0..=draws.below(4) {
            mutate(&mut input, &seeds, &mut draws);
        }
        tell(&input, body);
    }
}

fn tell(input: &[u8], body: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        eprintln!("the input was b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

/// Bytes that mean something to one of the targets.
const SPICES: [&[u8]; 12] =
    [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0", b"\xff", b"\r\n\r\n", b",", b"chunked", b"---\n"];

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], draws: &mut Draws) {
    let at = draws.below(input.len() + 1);
    match draws.below(6) {
        0 => input.truncate(at),
        1 if at < input.len() => input[at] ^= 1 << draws.below(8),
        2 if at < input.len() => input[at] = u8::try_from(draws.below(256)).unwrap_or(0),
        3 => {
            let end = at + draws.below(16).min(input.len() - at);
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        4 => {
            input.splice(at..at, SPICES[draws.below(SPICES.len())].iter().copied());
        }
        _ => {
            let other = &seeds[draws.below(seeds.len())];
            let from = draws.below(other.len());
            input.truncate(at);
            input.extend(&other[from..]);
        }
    }
}
