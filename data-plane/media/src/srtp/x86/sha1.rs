//! HMAC-SHA1 of several messages at a time. One SHA-1 is a chain of instructions that each wait for the one before;
//! with four chains interleaved the processor has something to do meanwhile.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128, _mm_sha1msg1_epu32,
    _mm_sha1msg2_epu32, _mm_sha1nexte_epu32, _mm_sha1rnds4_epu32, _mm_shuffle_epi8, _mm_xor_si128,
};

use smallvec::SmallVec;

use super::{load, store};
use crate::srtp::batch::Message;

const BLOCK: usize = 64;

/// Chains interleaved. More than four do not fit the sixteen registers any better and gain nothing.
const LANES: usize = 4;

/// A SHA-1 state as the instructions take it: a to d from the top, e at the top of its own register.
#[derive(Clone, Copy)]
struct State {
    abcd: __m128i,
    e: __m128i,
}

/// One chain: which blocks of which message it is at.
struct Lane<'a> {
    message: &'a Message<'a>,
    tag: &'a mut [u8; 20],
    state: State,
    stage: Stage,
    /// Blocks of the stage that are done.
    done: usize,
    /// Which of the tails is this lane's, and how many of its blocks are in use.
    tail: usize,
    tail_len: usize,
}

/// What is not in a message as whole blocks. Apart from the lanes, so that these are small enough to be moved.
type Tail = [[u8; BLOCK]; 2];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Whole blocks of the message.
    Body,
    /// The rest of the message, the rollover counter, the padding.
    Tail,
    /// The outer hash.
    Outer,
}

/// HMACs of all messages. A chain that is through takes the next message, so that lengths need not be the same.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) fn hmacs(messages: &[Message<'_>], tags: &mut [[u8; 20]]) {
    let mut queue = messages.iter().zip(tags);
    let mut tails = [[[0; BLOCK]; 2]; LANES];
    let mut lanes = SmallVec::<[Lane<'_>; LANES]>::new();
    for (tail, (message, tag)) in queue.by_ref().take(LANES).enumerate() {
        lanes.push(Lane::new(message, tag, tail, &mut tails[tail]));
    }
    loop {
        match lanes.as_mut_slice() {
            [] => return,
            [a] => run([a], &tails),
            [a, b] => run([a, b], &tails),
            [a, b, c] => run([a, b, c], &tails),
            [a, b, c, d, ..] => run([a, b, c, d], &tails),
        }
        let mut at = 0;
        while let Some(lane) = lanes.get_mut(at) {
            let tail = lane.tail;
            if lane.goes_on(&mut tails[tail]) {
                at += 1;
            } else if let Some((message, tag)) = queue.next() {
                *lane = Lane::new(message, tag, tail, &mut tails[tail]);
                at += 1;
            } else {
                lanes.swap_remove(at);
            }
        }
    }
}

/// Compresses as many blocks as every lane has before one of them changes its stage.
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn run<const L: usize>(lanes: [&mut Lane<'_>; L], tails: &[Tail; LANES]) {
    let mut states = lanes.each_ref().map(|lane| lane.state);
    let blocks = lanes.each_ref().map(|lane| lane.blocks(&tails[lane.tail]));
    let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    for at in 0..count {
        compress(&mut states, blocks.map(|blocks| &blocks[at]));
    }
    for (state, lane) in states.iter().zip(lanes) {
        lane.state = *state;
        lane.done += count;
    }
}

impl<'a> Lane<'a> {
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn new(message: &'a Message<'a>, tag: &'a mut [u8; 20], number: usize, tail: &mut Tail) -> Self {
        let (body, rest) = message.octets.as_chunks::<BLOCK>();
        let end = rest.len() + 4;
        let tail_len = (end + 1 + 8).div_ceil(BLOCK);
        *tail = [[0; BLOCK]; 2];
        let octets = tail.as_flattened_mut();
        octets[..rest.len()].copy_from_slice(rest);
        octets[rest.len()..end].copy_from_slice(&message.roc.to_be_bytes());
        octets[end] = 0x80;
        // The inner pad was the first block.
        let bits = 8 * (BLOCK + message.octets.len() + 4) as u64;
        octets[tail_len * BLOCK - 8..tail_len * BLOCK].copy_from_slice(&bits.to_be_bytes());
        Self {
            state: State::from_words(&message.mac.inner),
            message,
            tag,
            stage: if body.is_empty() { Stage::Tail } else { Stage::Body },
            done: 0,
            tail: number,
            tail_len,
        }
    }

    /// The blocks that are next.
    fn blocks<'b>(&self, tail: &'b Tail) -> &'b [[u8; BLOCK]]
    where
        'a: 'b,
    {
        let stage: &'b [_] = match self.stage {
            Stage::Body => self.message.octets.as_chunks().0,
            Stage::Tail => &tail[..self.tail_len],
            Stage::Outer => &tail[..1],
        };
        &stage[self.done..]
    }

    /// Changes the stage if it is through; `false` with the tag written.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn goes_on(&mut self, tail: &mut Tail) -> bool {
        if !self.blocks(tail).is_empty() {
            return true;
        }
        self.done = 0;
        match self.stage {
            Stage::Body => self.stage = Stage::Tail,
            Stage::Tail => {
                self.stage = Stage::Outer;
                self.state.write_outer_block(&mut tail[0]);
                self.state = State::from_words(&self.message.mac.outer);
            }
            Stage::Outer => {
                *self.tag = self.state.digest();
                return false;
            }
        }
        true
    }
}

impl State {
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn from_words(words: &[u32; 5]) -> Self {
        let [a, b, c, d, e] = words.map(|word| word as i32);
        Self {
            abcd: _mm_set_epi32(a, b, c, d),
            e: _mm_set_epi32(e, 0, 0, 0),
        }
    }

    /// The one block of the outer hash: this state's digest, and the padding of 84 octets. Whole vectors are written, which
    /// can be read back at once.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn write_outer_block(&self, block: &mut [u8; BLOCK]) {
        let e = _mm_extract_epi32::<3>(self.e);
        let words = [
            self.abcd,
            _mm_set_epi32(e, i32::MIN, 0, 0),
            _mm_setzero_si128(),
            _mm_set_epi32(0, 0, 0, 8 * (BLOCK as i32 + 20)),
        ];
        let (quarters, _) = block.as_chunks_mut();
        for (quarter, words) in quarters.iter_mut().zip(words) {
            store(quarter, reverse(words));
        }
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn digest(&self) -> [u8; 20] {
        let mut digest = [0; 20];
        if let Some((abcd, e)) = digest.split_first_chunk_mut() {
            store(abcd, reverse(self.abcd));
            e.copy_from_slice(&_mm_extract_epi32::<3>(self.e).to_be_bytes());
        }
        digest
    }
}

/// FIPS 180-4 §6.1.2 on one block of every lane: twenty groups of four rounds.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress<const L: usize>(states: &mut [State; L], blocks: [&[u8; BLOCK]; L]) {
    let zero = _mm_setzero_si128();
    let before = *states;
    let mut w = [[zero; 4]; L];
    for (w, block) in w.iter_mut().zip(blocks) {
        let (quarters, _) = block.as_chunks::<16>();
        for (w, quarter) in w.iter_mut().zip(quarters) {
            *w = reverse(load(quarter));
        }
    }
    /// Four rounds with function `$f` and the words in `$a`, which then become those of four groups later.
    macro_rules! group {
        ($f:literal, $e:ident, $a:literal $b:literal $c:literal $d:literal) => {
            for (state, w) in states.iter_mut().zip(&mut w) {
                let next_e = state.abcd;
                state.abcd = _mm_sha1rnds4_epu32::<$f>(state.abcd, $e(state.e, w[$a]));
                state.e = next_e;
                let mixed = _mm_xor_si128(_mm_sha1msg1_epu32(w[$a], w[$b]), w[$c]);
                w[$a] = _mm_sha1msg2_epu32(mixed, w[$d]);
            }
        };
    }
    group!(0, _mm_add_epi32, 0 1 2 3);
    group!(0, _mm_sha1nexte_epu32, 1 2 3 0);
    group!(0, _mm_sha1nexte_epu32, 2 3 0 1);
    group!(0, _mm_sha1nexte_epu32, 3 0 1 2);
    group!(0, _mm_sha1nexte_epu32, 0 1 2 3);
    group!(1, _mm_sha1nexte_epu32, 1 2 3 0);
    group!(1, _mm_sha1nexte_epu32, 2 3 0 1);
    group!(1, _mm_sha1nexte_epu32, 3 0 1 2);
    group!(1, _mm_sha1nexte_epu32, 0 1 2 3);
    group!(1, _mm_sha1nexte_epu32, 1 2 3 0);
    group!(2, _mm_sha1nexte_epu32, 2 3 0 1);
    group!(2, _mm_sha1nexte_epu32, 3 0 1 2);
    group!(2, _mm_sha1nexte_epu32, 0 1 2 3);
    group!(2, _mm_sha1nexte_epu32, 1 2 3 0);
    group!(2, _mm_sha1nexte_epu32, 2 3 0 1);
    group!(3, _mm_sha1nexte_epu32, 3 0 1 2);
    // The last schedules are of no use; the compiler sees that nobody reads them.
    group!(3, _mm_sha1nexte_epu32, 0 1 2 3);
    group!(3, _mm_sha1nexte_epu32, 1 2 3 0);
    group!(3, _mm_sha1nexte_epu32, 2 3 0 1);
    group!(3, _mm_sha1nexte_epu32, 3 0 1 2);
    for (state, before) in states.iter_mut().zip(before) {
        state.abcd = _mm_add_epi32(state.abcd, before.abcd);
        state.e = _mm_sha1nexte_epu32(state.e, before.e);
    }
}

/// The sixteen octets in the opposite order: words big-endian, the first at the top.
#[inline]
#[target_feature(enable = "ssse3")]
fn reverse(octets: __m128i) -> __m128i {
    _mm_shuffle_epi8(octets, _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0A0B_0C0D_0E0F))
}
