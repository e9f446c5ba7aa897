use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

/// A short text in place: an address or a number as every message carries several of. `core::fmt` takes a thousand
/// instructions for an IPv4 address, this a hundred.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; Self::ROOM],
    len: u8,
}

impl Text {
    /// The longest is an IPv6 address with scope, brackets and port.
    const ROOM: usize = 80;

    const EMPTY: Self = Self {
        bytes: [0; Self::ROOM],
        len: 0,
    };

    /// An address and its port, IPv6 in brackets.
    pub fn socket(address: SocketAddr) -> Self {
        let mut text = Self::EMPTY;
        match address.ip() {
            IpAddr::V4(_) => {
                text.put_ip(address.ip());
                text.put(b":");
                text.put_decimal(address.port().into());
            }
            // Rare enough.
            IpAddr::V6(_) => text.put_display(address),
        }
        text
    }

    /// An address.
    pub fn ip(address: IpAddr) -> Self {
        let mut text = Self::EMPTY;
        text.put_ip(address);
        text
    }

    /// A number in decimal digits.
    pub fn decimal(number: u32) -> Self {
        let mut text = Self::EMPTY;
        text.put_decimal(number);
        text
    }

    /// A number as 16 lower-case hexadecimal digits.
    pub fn hex(number: u64) -> Self {
        let mut text = Self::EMPTY;
        for byte in number.to_be_bytes() {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
            text.put(&[digit(byte >> 4), digit(byte)]);
        }
        text
    }

    fn put_ip(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                for (index, octet) in v4.octets().into_iter().enumerate() {
                    if index > 0 {
                        self.put(b".");
                    }
                    self.put_decimal(octet.into());
                }
            }
            IpAddr::V6(_) => self.put_display(address),
        }
    }

    fn put_decimal(&mut self, mut number: u32) {
        let mut digits = [0; 10];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    fn put_display(&mut self, value: impl fmt::Display) {
        write!(self, "{value}").expect("an address fits");
    }

    fn put(&mut self, part: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.len += part.len() as u8;
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if usize::from(self.len) + part.len() > Self::ROOM {
            return Err(fmt::Error);
        }
        self.put(part.as_bytes());
        Ok(())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("digits and punctuation are ASCII")
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn says_the_same_as_display(
            v4 in any::<[u8; 4]>(),
            v6 in any::<[u8; 16]>(),
            scope in any::<u32>(),
            port in any::<u16>(),
            number in any::<u32>(),
            wide in any::<u64>(),
        ) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(&*Text::ip(ip), ip.to_string());
                let address = SocketAddr::new(ip, port);
                prop_assert_eq!(&*Text::socket(address), address.to_string());
            }
            let scoped = SocketAddr::V6(std::net::SocketAddrV6::new(v6.into(), port, 0, scope));
            prop_assert_eq!(&*Text::socket(scoped), scoped.to_string());
            prop_assert_eq!(&*Text::decimal(number), number.to_string());
            prop_assert_eq!(&*Text::hex(wide), format!("{wide:016x}"));
        }
    }
}
