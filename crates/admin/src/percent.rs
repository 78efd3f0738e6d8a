//! Percent-encoding (RFC 3986 section 2.1) of bytes in a path or query.

/// Encodes everything but RFC 3986's unreserved characters, so that the result fits in one path segment or one query value.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    let mut out = String::with_capacity(bytes.as_ref().len());
    for &b in bytes.as_ref() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            out.push(hex_digit(b >> 4));
            out.push(hex_digit(b & 15));
        }
    }
    out
}

/// Decodes; a `%` that two hex digits do not follow stands for itself.
pub fn decode(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut rest = text.as_ref();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if let (b'%', [high, low, after @ ..]) = (b, tail)
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(b);
        }
    }
    out
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(nibble.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_encoding_and_decoding() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&all)), all);
    }

    #[test]
    fn reserved_characters_are_encoded_in_upper_case() {
        assert_eq!(encode("alice@example.org/a b"), "alice%40example.org%2Fa%20b");
    }

    #[test]
    fn a_percent_sign_without_two_hex_digits_stands_for_itself() {
        assert_eq!(decode("100%"), b"100%");
        assert_eq!(decode("%zz%4"), b"%zz%4");
        assert_eq!(decode("%4a%4A"), b"JJ");
    }
}
