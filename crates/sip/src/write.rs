//! Numbers and addresses as text, at the end of a message. What `Display` makes of them, without its generality: every
//! message has a dozen of these.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Appends a number.
pub fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the last `digits` hexadecimal digits of a number, in lower case.
pub fn hex(out: &mut Vec<u8>, number: u64, digits: u32) {
    out.extend((0..digits).rev().map(|at| b"0123456789abcdef"[(number >> (4 * at)) as usize & 15]));
}

/// Appends an address.
pub fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (at, byte) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(byte));
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(ip) => _ = write!(out, "{ip}"),
    }
}

/// Appends an address and a port.
pub fn addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr {
        SocketAddr::V4(v4) => {
            ip(out, IpAddr::V4(*v4.ip()));
            out.push(b':');
            number(out, u64::from(v4.port()));
        }
        // Writing to a vector cannot fail.
        SocketAddr::V6(v6) => _ = write!(out, "{v6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_written_is_what_display_makes_of_it() {
        for value in [0, 9, 10, 65_535, u64::MAX] {
            assert_eq!(written(|out| number(out, value)), value.to_string());
            assert_eq!(written(|out| hex(out, value, 16)), format!("{value:016x}"));
        }
        for text in ["10.0.200.1:5060", "255.255.255.255:0", "[::1]:65535", "[fe80::1%3]:1", "[::ffff:1.2.3.4]:5060"] {
            let value: SocketAddr = text.parse().unwrap();
            assert_eq!(written(|out| addr(out, value)), value.to_string());
            assert_eq!(written(|out| ip(out, value.ip())), value.ip().to_string());
        }
        assert_eq!(written(|out| hex(out, 0x1_0000_00ab, 8)), "000000ab");
    }
}
