//! A small hash that is the same on every machine and in every version. Pure.
//!
//! It finds changed files, places services in the range of virtual addresses and checks the state
//! file. It resists accidents, not attackers: whoever can write manifests needs no collisions.

/// The hash of some bytes: FNV-1a over 64 bits, its result mixed so that all bits depend on all input.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    let mut x = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        x = (x ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_never_changes() {
        // Replicas of different versions must agree on virtual addresses.
        assert_eq!(super::of(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(super::of(b"shop/web"), 0xbcdb_ab90_1d2a_36bb);
    }
}
