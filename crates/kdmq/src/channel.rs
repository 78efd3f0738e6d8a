//! DMQ channels: which module of a server a message is for.

use bstr::BStr;

/// A DMQ channel, named by the user part of the R-URI; letter case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel<'a> {
    /// `notification_peer`: who is in the mesh.
    Notification,
    /// `usrloc`: contacts.
    Usrloc,
    /// `htable`: hash tables.
    Htable,
    /// `dialog`: calls.
    Dialog,
    /// `presence`: presentities and subscriptions.
    Presence,
    /// Any other name, chosen by somebody's configuration.
    Custom(&'a BStr),
}

/// What is known of a channel by its name.
#[derive(Clone, Copy, Debug)]
pub struct ChannelKind {
    /// The channel.
    pub channel: Channel<'static>,
    /// The R-URI user.
    pub name: &'static str,
    /// Content-Type of its bodies as Kamailio sends them; no built-in channel looks at it.
    pub content_type: &'static str,
    /// The body that asks a server for all it has; `None` where there is none, or none that this
    /// crate has a use for.
    pub sync: Option<&'static [u8]>,
}

/// The channels with a name of their own. A new channel is a module and a line here.
pub const CHANNELS: &[ChannelKind] = &[
    ChannelKind { channel: Channel::Notification, name: "notification_peer", content_type: "text/plain", sync: None },
    ChannelKind {
        channel: Channel::Usrloc,
        name: "usrloc",
        content_type: "application/json",
        sync: Some(crate::usrloc::SYNC),
    },
    ChannelKind {
        channel: Channel::Htable,
        name: "htable",
        content_type: "application/json",
        sync: Some(crate::htable::SYNC),
    },
    ChannelKind { channel: Channel::Dialog, name: "dialog", content_type: "application/json", sync: None },
    ChannelKind { channel: Channel::Presence, name: "presence", content_type: "application/json", sync: None },
];

impl<'a> Channel<'a> {
    /// The channel that an R-URI with this user part is for.
    pub fn from_user(user: &'a [u8]) -> Self {
        let known = CHANNELS.iter().find(|kind| kind.name.as_bytes() == user);
        known.map_or(Self::Custom(BStr::new(user)), |kind| kind.channel)
    }

    /// Its name: the R-URI user.
    pub fn name(&self) -> &'a BStr {
        match self {
            Self::Custom(name) => name,
            known => {
                let kind = CHANNELS.iter().find(|kind| kind.channel == *known);
                BStr::new(kind.map_or("", |kind| kind.name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_is_found_by_its_name_and_names_itself() {
        for kind in CHANNELS {
            assert_eq!(Channel::from_user(kind.name.as_bytes()), kind.channel);
            assert_eq!(kind.channel.name(), kind.name);
        }
    }

    #[test]
    fn a_name_in_other_letter_case_is_another_channel() {
        assert_eq!(Channel::from_user(b"USRLOC"), Channel::Custom(BStr::new("USRLOC")));
        assert_eq!(Channel::from_user(b"labchan").name(), "labchan");
    }
}
