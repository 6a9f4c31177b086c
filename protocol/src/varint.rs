//! Unsigned LEB128 integers, seven bits a byte, lowest first, as in Protocol Buffers.
//! It never panics on any input and accepts one form of each number only.

/// Appends `value` to `out`: 1 to 10 bytes.
pub(crate) fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `input`. `None` when it is cut off, longer than a `u64`, or
/// not in its shortest form; `input` is then left anywhere.
pub(crate) fn read(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back_and_padded_or_oversized_forms_do_not() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 53, u64::MAX] {
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            let mut input = bytes.as_slice();
            assert_eq!(read(&mut input), Some(value));
            assert!(input.is_empty());
        }
        assert_eq!(read(&mut [0x80, 0x00].as_slice()), None);
        assert_eq!(read(&mut [0xff; 9].as_slice()), None);
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(read(&mut too_big.as_slice()), None);
    }
}
