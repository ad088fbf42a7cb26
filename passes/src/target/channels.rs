//! How many channels convolution kernels compute at once.

/// Channels must come in such numbers for blocked kernels to be taken at all: 30 of 64 take 0.73 where 32 take 0.57.
pub const CHANNEL_ALIGNMENT: usize = 4;

/// Steps in which channels of a group of `count` are kept where kernels compute blocks of `block`: half a block where the group
/// has several, else [`CHANNEL_ALIGNMENT`]. (Whole blocks would leave no choice: the bench's nets have 16 to 64 channels.)
pub fn channel_step(count: usize, block: usize) -> usize {
    match count {
        ..8 => 1,
        _ if count >= 2 * block => (block / 2).max(CHANNEL_ALIGNMENT),
        _ => CHANNEL_ALIGNMENT,
    }
}
