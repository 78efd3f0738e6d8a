//! Which generation of Kamailio a peer is.

/// The two generations whose wires differ.
///
/// They accept different messages: 5.x answers 400 to a hash table set with a time stamp and takes
/// the last arrival; 6.x compares time stamps and has fields that 5.x does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// 5.x, and everything that does not say what it is: it gets the strictest form of output.
    #[default]
    V5,
    /// 6 and later.
    V6,
}

impl Generation {
    /// Reads it off a `User-Agent` or `Server` header value such as
    /// `kamailio (5.6.3 (x86_64/linux))`. Anything else is taken for the older generation.
    pub fn from_agent(agent: &[u8]) -> Self {
        const NAME: &[u8] = b"kamailio";
        let Some((name, version)) = agent.trim_ascii_start().split_at_checked(NAME.len()) else {
            return Self::V5;
        };
        let from = version.iter().position(|byte| !matches!(byte, b' ' | b'(' | b'/' | b'-' | b'v'));
        let version = version.get(from.unwrap_or(version.len())..).unwrap_or_default();
        let digits = version.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let digits = version.get(..digits).unwrap_or_default();
        let major = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
        match major {
            Some(6..) if name.eq_ignore_ascii_case(NAME) => Self::V6,
            _ => Self::V5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_in_the_agent_tells_the_generation() {
        for agent in ["kamailio (6.2.0-dev1 (x86_64/linux))", "Kamailio (6.0.0)", "kamailio/7.0", "kamailio (10.1)"] {
            assert_eq!(Generation::from_agent(agent.as_bytes()), Generation::V6, "{agent}");
        }
        for agent in ["kamailio (5.6.3 (x86_64/linux))", "kamailio (5.8.2)", "OpenSER (6.1)", "kamailio", "", "6.0"] {
            assert_eq!(Generation::from_agent(agent.as_bytes()), Generation::V5, "{agent}");
        }
    }
}
