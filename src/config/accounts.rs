//! The numbers of users and groups that the configuration names.
//!
//! Names are looked up in /etc/passwd and /etc/group, where sysusers.d and `useradd` put the accounts
//! of a vehicle computer. The C library's look-up is not used: it loads plug-ins into the daemon, may
//! wait for a network, and is absent from static binaries. An account of another source is given by
//! its number.

use super::{Account, raw::RawPeer, value::Name};
use std::fs;

/// Numbers from here on are not those of an account: the kernel uses the largest for "no account".
const NO_ACCOUNT: u64 = u32::MAX as u64;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::User => "/etc/passwd",
            Self::Group => "/etc/group",
        }
    }
}

/// The account of an entry of `peers`, or the key that is wrong and why. The key is empty where the
/// entry as a whole is.
pub(super) fn account_of(raw: &RawPeer) -> Result<Account, (&'static str, String)> {
    match (&raw.user, &raw.group) {
        (Some(user), None) => {
            number_of(Kind::User, user).map(Account::User).map_err(|what| ("user", what))
        }
        (None, Some(group)) => {
            number_of(Kind::Group, group).map(Account::Group).map_err(|what| ("group", what))
        }
        (Some(_), Some(_)) => Err(("", "names a user and a group: make two entries".into())),
        (None, None) => Err(("", "names nobody: give `user` or `group`".into())),
    }
}

/// The number of a user or group, or what is wrong with its name.
pub(super) fn number_of(kind: Kind, name: &Name) -> Result<u32, String> {
    let text = match name {
        Name::Number(number) if *number < NO_ACCOUNT => return Ok(*number as u32),
        Name::Number(number) => return Err(too_large(&number.to_string())),
        Name::Text(text) => text,
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse::<u32>().ok().filter(|number| u64::from(*number) < NO_ACCOUNT);
        return number.ok_or_else(|| too_large(text));
    }
    let (noun, file) = (kind.noun(), kind.file());
    let lines = fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    find(&String::from_utf8_lossy(&lines), text)
        .ok_or_else(|| format!("no {noun} `{text}` in {file}: create it, or give its number"))
}

fn too_large(number: &str) -> String {
    format!("is {number}; 0 to {} are allowed", NO_ACCOUNT - 1)
}

/// The number in a line `name:password:number:...`.
fn find(lines: &str, name: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(kind: Kind, name: &str) -> Result<u32, String> {
        number_of(kind, &Name::Text(name.into()))
    }

    #[test]
    fn names_are_found_as_whole_fields_and_lines_of_other_forms_are_passed_over() {
        let lines = "# comment\nroot:x:0:0::/root:/bin/sh\nplan:x:no:1\nplanner:x:1001:7\n+::::\n";
        assert_eq!(find(lines, "planner"), Some(1001));
        assert_eq!(find(lines, "root"), Some(0));
        for absent in ["plan", "x", "1001", ""] {
            assert_eq!(find(lines, absent), None, "{absent}");
        }
    }

    #[test]
    fn numbers_need_no_account_and_the_largest_is_refused() {
        assert_eq!(number(Kind::User, "root"), Ok(0));
        assert_eq!(number(Kind::Group, "4294967294"), Ok(4_294_967_294));
        assert!(number(Kind::User, "4294967295").is_err());
        assert!(number_of(Kind::User, &Name::Number(u64::MAX)).is_err());
        let absent = number(Kind::Group, "no-such-group").unwrap_err();
        assert!(absent.starts_with("no group `no-such-group` in /etc/group"), "{absent}");
    }
}
