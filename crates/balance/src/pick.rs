//! Power of two choices: two distinct random candidates, the less loaded one wins.
//!
//! Pure: the draw and the loads come from the caller (`backend`). It knows neither endpoints nor
//! readiness, only how many candidates there are.

/// Two distinct indices below `len`, uniformly drawn from the bits of `draw`; the same index twice if
/// there is only one candidate, `None` if there is none. `len` counts up to 2³².
pub fn two(len: usize, draw: u64) -> Option<(usize, usize)> {
    match len {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = scale(draw >> 32, len);
            let second = scale(draw & u64::from(u32::MAX), len - 1);
            // Skipping the first index keeps the second uniform over the others.
            Some((first, if second >= first { second + 1 } else { second }))
        }
    }
}

/// The index of the less loaded of two candidates; on a tie, the first drawn. `load` is asked only
/// when there is a choice.
pub fn choose(len: usize, draw: u64, load: impl Fn(usize) -> f64) -> Option<usize> {
    let (first, second) = two(len, draw)?;
    if first == second {
        return Some(first);
    }
    Some(if load(second) < load(first) { second } else { first })
}

/// How much less loaded an endpoint of another zone must be to take a request from one of the own: the way there costs
/// time and often money, and twice the load is more than the noise of two estimates.
pub const DISTANCE: f64 = 2.0;

/// As [`choose`], but a candidate that is passed over by this draw gives way to the other one, unless that is passed over, too.
pub fn choose_warm(
    len: usize,
    draw: u64,
    load: impl Fn(usize) -> f64,
    is_passed_over: impl Fn(usize, f64) -> bool,
) -> Option<usize> {
    let (first, second) = two(len, draw)?;
    if first == second {
        return Some(first);
    }
    let further = further(draw);
    match (is_passed_over(first, further), is_passed_over(second, further)) {
        (true, false) => Some(second),
        (false, true) => Some(first),
        _ => Some(if load(second) < load(first) { second } else { first }),
    }
}

/// How many candidates are looked at when two are not enough: all of a small service, and of a large one enough to find an
/// idle one if a tenth of them are. Chosen in the laboratory.
pub const MOST: usize = 16;

/// As [`choose_warm`], but if even the chosen one owes an answer, up to [`MOST`] others are looked at, beginning anywhere:
/// between two busy ones the choice says little while an idle one may be next to them. A new one is not among them: idle as
/// it is, it would be found each time.
pub fn choose_idle(
    len: usize,
    draw: u64,
    load: impl Fn(usize) -> f64,
    is_passed_over: impl Fn(usize, f64) -> bool,
    is_busy: impl Fn(usize) -> bool,
) -> Option<usize> {
    let chosen = choose_warm(len, draw, &load, &is_passed_over)?;
    if len <= 2 || !is_busy(chosen) {
        return Some(chosen);
    }
    let start = one(len, mixed(draw))?;
    let others = (0..len.min(MOST)).map(|step| (start + step) % len);
    let best = |best: (usize, f64), other| {
        let load = load(other);
        if load < best.1 { (other, load) } else { best }
    };
    Some(others.filter(|i| !is_passed_over(*i, 1.0)).fold((chosen, load(chosen)), best).0)
}

/// One index below `len`, from bits that the two choices do not use.
pub fn one(len: usize, draw: u64) -> Option<usize> {
    (len > 0).then(|| scale(mixed(draw) >> 32, len))
}

/// A uniform draw in `0..1` from the same bits, independent of the two choices for all that matters here.
fn further(draw: u64) -> f64 {
    (mixed(draw) >> 11) as f64 / (1u64 << 53) as f64
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of the draw.
fn mixed(draw: u64) -> u64 {
    let mut z = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps 32 random bits onto `0..len` (Lemire's multiplication; its bias below 2⁻³² × len is of no
/// consequence here).
fn scale(bits: u64, len: usize) -> usize {
    ((u128::from(bits) * len as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(len: usize, draw: u64, expected: Option<(usize, usize)>) {
        assert_eq!(two(len, draw), expected, "len {len} draw {draw:#x}");
    }

    #[test]
    fn edges_of_the_draw_stay_in_range() {
        check(0, u64::MAX, None);
        check(1, u64::MAX, Some((0, 0)));
        check(2, 0, Some((0, 1)));
        check(2, u64::MAX, Some((1, 0)));
        check(10, u64::MAX, Some((9, 8)));
        check(10, 0xffff_ffff, Some((0, 9)));
    }

    #[test]
    fn every_ordered_pair_is_equally_likely() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [[0u32; 5]; 5];
        for _ in 0..200_000 {
            let (a, b) = two(5, rng.u64(..)).unwrap();
            seen[a][b] += 1;
        }
        for (a, row) in seen.iter().enumerate() {
            for (b, &count) in row.iter().enumerate() {
                match a == b {
                    true => assert_eq!(count, 0),
                    false => assert!((9_500..10_500).contains(&count), "({a},{b}) drawn {count} times"),
                }
            }
        }
    }

    #[test]
    fn one_that_is_passed_over_gives_way_unless_both_are() {
        let loads = |i: usize| [2.0, 1.0][i];
        for (first, second, expected) in
            [(false, false, 1), (false, true, 0), (true, false, 1), (true, true, 1)]
        {
            let passed = |i: usize, _| if i == 0 { first } else { second };
            assert_eq!(choose_warm(2, 0, loads, passed), Some(expected), "{first} {second}");
        }
        let mut rng = fastrand::Rng::with_seed(3);
        let below = (0..10_000).filter(|_| further(rng.u64(..)) < 0.25).count();
        assert!((2_300..2_700).contains(&below), "{below}");
        assert_eq!((one(0, 5), one(1, 5)), (None, Some(0)));
    }

    #[test]
    fn others_are_looked_at_only_if_the_better_of_two_is_busy() {
        // The draw 0 takes 0 and 1, of which 1 owes less.
        let loads = [3.0, 2.0, 1.0, 4.0, 0.5];
        let choose = |len: usize, busy: bool, passed: usize| {
            choose_idle(len, 0, |i| loads[i % 5], |i, _| i == passed, |_| busy)
        };
        assert_eq!(choose(5, false, 9), Some(1));
        assert_eq!(choose(5, true, 9), Some(4));
        assert_eq!(choose(5, true, 4), Some(2), "a new one is not found");
        assert_eq!((choose(2, true, 9), choose(1, true, 9), choose(0, true, 9)), (Some(1), Some(0), None));
        let asked = std::cell::Cell::new(0);
        let count = |_| {
            asked.set(asked.get() + 1);
            1.0
        };
        choose_idle(10_000, 77, count, |_, _| false, |_| true);
        assert!(asked.get() <= MOST + 3, "{}", asked.get());
    }

    #[test]
    fn the_lower_load_wins_and_ties_go_to_the_first() {
        assert_eq!(choose(2, 0, |i| [2.0, 1.0][i]), Some(1));
        assert_eq!(choose(2, 0, |i| [1.0, 2.0][i]), Some(0));
        assert_eq!(choose(2, u64::MAX, |_| 1.0), Some(1));
        assert_eq!(choose(1, 3, |_| unreachable!("no choice, no question")), Some(0));
        assert_eq!(choose(0, 3, |_| 0.0), None);
    }
}
