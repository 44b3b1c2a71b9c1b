//! Who runs the program, from the request, the image's `USER` and the image's
//! `/etc/passwd` and `/etc/group` (`passwd(5)`, `group(5)`).

use oci_spec::runtime::User;
use serde::{Deserialize, Serialize};

use super::super::model::{GroupsPolicy, SecurityContext};
use super::error::SpecError;

/// The image's user and group files. Lines that don't parse are skipped, as
/// the C library does.
#[derive(Debug, Clone, Default)]
pub struct UserRecords {
    passwd: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who runs the program, as the status reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups with the primary one first.
    pub groups: Vec<u32>,
}

impl ResolvedUser {
    pub(super) fn to_oci(&self) -> User {
        let mut user = User::default();
        user.set_uid(self.uid);
        user.set_gid(self.gid);
        user.set_additional_gids(Some(self.groups.clone()));
        user
    }
}

impl UserRecords {
    /// Reads the texts; both may be empty.
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let passwd = String::from_utf8_lossy(passwd);
        let group = String::from_utf8_lossy(group);
        let account = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Account { name, uid, gid })
        };
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default().trim().split(',');
            let members = members.filter(|m| !m.is_empty()).map(str::to_owned);
            Some(Group {
                name,
                gid,
                members: members.collect(),
            })
        };
        Self {
            passwd: passwd.lines().filter_map(account).collect(),
            groups: group.lines().filter_map(entry).collect(),
        }
    }

    /// By name first: a name may be all digits.
    fn account(&self, text: &str) -> Option<&Account> {
        let by_name = self.passwd.iter().find(|a| a.name == text);
        by_name.or_else(|| {
            let uid: u32 = text.parse().ok()?;
            self.passwd.iter().find(|a| a.uid == uid)
        })
    }

    fn groups_of(&self, name: &str) -> impl Iterator<Item = u32> {
        self.groups
            .iter()
            .filter(move |group| group.members.iter().any(|m| m == name))
            .map(|group| group.gid)
    }
}

/// Decides user, group and supplementary groups.
///
/// A user name wins over a user id, and either over the image's `USER`
/// (`user`, `user:group`, names or numbers). A user without a group gets the
/// one of its passwd entry, else 0.
///
/// # Errors
/// [`SpecError::Invalid`] for a group without a user, ids out of range, and
/// names that the image doesn't know.
pub fn resolve(
    security: &SecurityContext,
    image_user: &str,
    records: &UserRecords,
) -> Result<ResolvedUser, SpecError> {
    let (user, group) = requested(security, image_user)?;
    let account = records.account(&user);
    let uid = match (account, user.parse()) {
        (Some(account), _) => account.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) if user.is_empty() => 0,
        (None, Err(_)) => {
            return Err(SpecError::invalid(
                "config.linux.security_context.run_as_username",
                format!("the image has no user {user:?}"),
            ));
        }
    };
    let gid = match group {
        None => account.map_or(0, |account| account.gid),
        Some(group) => group_id(&group, records)?,
    };
    let mut groups = vec![gid];
    if security.groups_policy == GroupsPolicy::Merge
        && let Some(account) = account
    {
        groups.extend(records.groups_of(&account.name));
    }
    for group in &security.supplemental_groups {
        groups.push(id(
            "config.linux.security_context.supplemental_groups",
            *group,
        )?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(ResolvedUser { uid, gid, groups })
}

fn requested(
    security: &SecurityContext,
    image_user: &str,
) -> Result<(String, Option<String>), SpecError> {
    let uid = security
        .run_as_user
        .map(|uid| id("config.linux.security_context.run_as_user", uid))
        .transpose()?;
    let group_field = "config.linux.security_context.run_as_group";
    let gid = security
        .run_as_group
        .map(|gid| id(group_field, gid))
        .transpose()?
        .map(|gid| gid.to_string());
    if !security.run_as_username.is_empty() {
        return Ok((security.run_as_username.clone(), gid));
    }
    if let Some(uid) = uid {
        return Ok((uid.to_string(), gid));
    }
    if gid.is_some() {
        return Err(SpecError::invalid(
            group_field,
            "it needs run_as_user or run_as_username",
        ));
    }
    Ok(match image_user.split_once(':') {
        Some((user, group)) => (
            user.to_owned(),
            (!group.is_empty()).then(|| group.to_owned()),
        ),
        None if image_user.is_empty() => ("0".to_owned(), None),
        None => (image_user.to_owned(), None),
    })
}

fn group_id(text: &str, records: &UserRecords) -> Result<u32, SpecError> {
    if let Some(group) = records.groups.iter().find(|group| group.name == text) {
        return Ok(group.gid);
    }
    text.parse().map_err(|_| {
        SpecError::invalid(
            "config.image",
            format!("the image's USER names the group {text:?}, which the image doesn't have"),
        )
    })
}

/// -1 is "unchanged" to the kernel and no id.
fn id(field: &'static str, value: i64) -> Result<u32, SpecError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| SpecError::invalid(field, format!("{value} is no user or group id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1001::/home/a:/bin/sh\n77:x:5:6:::\n";
    const GROUP: &[u8] =
        b"root:x:0:\nstaff:x:50:alice,bob\nalice:x:1001:\nextra:x:60:bob,alice\nbad:x:no:\n";

    fn run(security: &SecurityContext, image: &str) -> Result<(u32, u32, Vec<u32>), SpecError> {
        let records = UserRecords::parse(PASSWD, GROUP);
        resolve(security, image, &records).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn from_the_image() {
        let none = SecurityContext::default();
        for (image, wanted) in [
            ("", (0, 0, vec![0])),
            ("alice", (1000, 1001, vec![1001, 50, 60])),
            ("1000", (1000, 1001, vec![1001, 50, 60])),
            ("alice:staff", (1000, 50, vec![50, 60])),
            ("alice:9", (1000, 9, vec![9, 50, 60])),
            ("4000", (4000, 0, vec![0])),
            ("4000:4001", (4000, 4001, vec![4001])),
            ("77", (5, 6, vec![6])),
            (":50", (0, 50, vec![50])),
        ] {
            assert_eq!(run(&none, image), Ok(wanted), "{image}");
        }
        assert!(run(&none, "nobody").is_err());
        assert!(run(&none, "alice:nogroup").is_err());
    }

    #[test]
    fn the_request_wins() {
        let mut security = SecurityContext {
            run_as_user: Some(1000),
            ..SecurityContext::default()
        };
        assert_eq!(
            run(&security, "4000:5"),
            Ok((1000, 1001, vec![1001, 50, 60]))
        );
        security.run_as_group = Some(7);
        security.supplemental_groups = vec![50, 99];
        assert_eq!(run(&security, ""), Ok((1000, 7, vec![7, 50, 60, 99])));
        security.groups_policy = GroupsPolicy::Strict;
        assert_eq!(run(&security, ""), Ok((1000, 7, vec![7, 50, 99])));
        security.run_as_username = "root".into();
        assert_eq!(run(&security, ""), Ok((0, 7, vec![7, 50, 99])));
    }

    #[test]
    fn refusals() {
        let group_only = SecurityContext {
            run_as_group: Some(1),
            ..SecurityContext::default()
        };
        assert!(run(&group_only, "alice").is_err());
        for bad in [-1, i64::from(u32::MAX), i64::MAX] {
            let security = SecurityContext {
                run_as_user: Some(bad),
                ..SecurityContext::default()
            };
            assert!(run(&security, "").is_err(), "{bad}");
        }
    }
}
