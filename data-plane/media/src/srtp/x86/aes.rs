//! AES in counter mode: up to ten blocks in flight, the payload of a packet of 20 ms of G.711.

use core::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_extract_epi32, _mm_insert_epi16,
    _mm_set1_epi32, _mm_setzero_si128, _mm_xor_si128,
};

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Hardware, load, store};

const BLOCK: usize = 16;

/// Round keys of AES-128 (`N` = 11), AES-192 (13) or AES-256 (15) for encryption. Having one proves that the processor has
/// the instructions to use it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(in crate::srtp) struct Schedule<const N: usize> {
    keys: [[u8; BLOCK]; N],
}

impl<const N: usize> Schedule<N> {
    /// Expands a key of 16, 24 or 32 octets, which must go with `N`.
    pub(in crate::srtp) fn new(_proof: Hardware, key: &[u8]) -> Self {
        debug_assert_eq!(
            key.len() / 4 + 7,
            N,
            "FIPS 197 §5: key words plus six rounds, and the first addition"
        );
        let mut schedule = Self { keys: [[0; BLOCK]; N] };
        // SAFETY: the proof says the instructions are there.
        unsafe { expand(key, schedule.keys.as_flattened_mut()) };
        schedule
    }

    /// Adds the keystream that starts at `iv` to `data`. The last two octets of `iv`, the block counter, must be zero
    /// (RFC 3711 §4.1.1), and `data` no longer than the 2^20 octets they can count.
    pub(in crate::srtp) fn apply(&self, iv: &[u8; BLOCK], data: &mut [u8]) {
        // SAFETY: a schedule is only made where the instructions are.
        unsafe { add_keystream(&self.keys, iv, data) }
    }
}

/// FIPS 197 §5.2. Words are read little-endian, so that rotations go the other way round.
#[target_feature(enable = "aes,sse4.1")]
fn expand(key: &[u8], schedule: &mut [u8]) {
    let mut rcon = 1u32;
    let step = key.len();
    schedule[..step].copy_from_slice(key);
    for at in (step..schedule.len()).step_by(4) {
        let mut word = word_at(schedule, at - 4);
        if at % step == 0 {
            word = sub_word(word.rotate_right(8)) ^ rcon;
            rcon = (rcon << 1) ^ (0x11B * (rcon >> 7));
        } else if step == 32 && at % step == 16 {
            word = sub_word(word);
        }
        word ^= word_at(schedule, at - step);
        schedule[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

fn word_at(schedule: &[u8], at: usize) -> u32 {
    schedule[at..at + 4]
        .iter()
        .rev()
        .fold(0, |word, octet| (word << 8) | u32::from(*octet))
}

#[target_feature(enable = "aes,sse4.1")]
fn sub_word(word: u32) -> u32 {
    _mm_extract_epi32::<0>(_mm_aeskeygenassist_si128::<0>(_mm_set1_epi32(word as i32))) as u32
}

#[target_feature(enable = "aes,sse4.1")]
fn add_keystream<const N: usize>(keys: &[[u8; BLOCK]; N], iv: &[u8; BLOCK], data: &mut [u8]) {
    const WIDE: usize = 10;
    const NARROW: usize = 4;
    let iv = load(iv);
    let mut counter = 0;
    let mut rest = data;
    while !rest.is_empty() {
        let blocks = rest.len().div_ceil(BLOCK);
        if blocks > NARROW {
            let (now, later) = rest.split_at_mut(rest.len().min(WIDE * BLOCK));
            add(&encrypt_counters::<N, WIDE>(keys, iv, counter), now);
            rest = later;
            counter = counter.wrapping_add(WIDE as u16);
        } else {
            add(&encrypt_counters::<N, NARROW>(keys, iv, counter), rest);
            return;
        }
    }
}

/// `B` blocks of keystream from `counter` on.
#[inline]
#[target_feature(enable = "aes,sse4.1")]
fn encrypt_counters<const N: usize, const B: usize>(
    keys: &[[u8; BLOCK]; N],
    iv: __m128i,
    counter: u16,
) -> [__m128i; B] {
    let mut blocks = [_mm_setzero_si128(); B];
    let first = _mm_xor_si128(iv, load(&keys[0]));
    // The counter's octets of the IV are zero, so adding it is writing it; the first round key is added to both at once.
    for (at, block) in blocks.iter_mut().enumerate() {
        let counter = counter.wrapping_add(at as u16).swap_bytes();
        *block = _mm_xor_si128(first, _mm_insert_epi16::<7>(_mm_setzero_si128(), i32::from(counter)));
    }
    for key in &keys[1..N - 1] {
        let key = load(key);
        for block in &mut blocks {
            *block = _mm_aesenc_si128(*block, key);
        }
    }
    let key = load(&keys[N - 1]);
    for block in &mut blocks {
        *block = _mm_aesenclast_si128(*block, key);
    }
    blocks
}

/// Adds keystream to as many octets as there are.
#[inline]
#[target_feature(enable = "sse4.1")]
fn add(stream: &[__m128i], data: &mut [u8]) {
    let (blocks, rest) = data.as_chunks_mut::<BLOCK>();
    let mut stream = stream.iter();
    for (block, key) in blocks.iter_mut().zip(&mut stream) {
        store(block, _mm_xor_si128(load(block), *key));
    }
    if let (false, Some(key)) = (rest.is_empty(), stream.next()) {
        let mut last = [0; BLOCK];
        store(&mut last, *key);
        rest.iter_mut().zip(last).for_each(|(octet, key)| *octet ^= key);
    }
}
