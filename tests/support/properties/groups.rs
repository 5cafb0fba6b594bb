//! Groups, compared with a plain list.

use switchboard::protocol::groups::{Groups, JoinError, MAX_NAME_BYTES};

use super::Choices;

/// Groups and their members are those of a plain list of pairs, within the limits, and nothing empty is kept.
///
/// The bytes are: the two limits, then pairs of an operation and of a group and a member.
pub fn groups(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (max_groups, max_of_member) = (usize::from(choices.byte() % 5), usize::from(choices.byte() % 5));
    let mut groups = Groups::new(max_groups, max_of_member);
    let mut pairs: Vec<(String, u8)> = Vec::new();
    while !choices.is_empty() {
        let (operation, byte) = (choices.byte() % 4, choices.byte());
        let (name, key) = (format!("room {}", byte >> 4 & 7), byte & 7);
        match operation {
            0 => {
                let names = names(&pairs);
                let own = pairs.iter().filter(|(_, member)| *member == key).count();
                let expected = if pairs.contains(&(name.clone(), key)) {
                    Ok(())
                } else if own >= max_of_member {
                    Err(JoinError::TooManyOfMember(max_of_member))
                } else if !names.contains(&name) && names.len() >= max_groups {
                    Err(JoinError::TooMany(max_groups))
                } else {
                    pairs.push((name.clone(), key));
                    Ok(())
                };
                let joined = groups.join(&name, key, u32::from(key) * 3);
                assert_eq!(joined, expected, "{key} joins {name}");
                joined.err().into_iter().for_each(names_the_limit);
            }
            1 => {
                let before = pairs.len();
                pairs.retain(|pair| *pair != (name.clone(), key));
                assert_eq!(groups.leave(&name, key), pairs.len() < before, "{key} leaves {name}");
            }
            2 => {
                pairs.retain(|(_, member)| *member != key);
                groups.leave_all(key);
            }
            _ => {
                let length = [0, MAX_NAME_BYTES + 1, 1000, usize::from(byte) + MAX_NAME_BYTES + 1]
                    [usize::from(byte % 4)];
                let error = JoinError::NameLength(length);
                assert_eq!(groups.join(&"x".repeat(length), key, 0), Err(error));
                names_the_limit(error);
            }
        }
        groups_are_the_pairs(&groups, &pairs);
    }
}

/// The text of an error has the numbers that say what to change.
fn names_the_limit(error: JoinError) {
    let (JoinError::TooManyOfMember(number) | JoinError::TooMany(number) | JoinError::NameLength(number)) =
        error;
    assert!(error.to_string().contains(&number.to_string()), "{error}");
}

fn names(pairs: &[(String, u8)]) -> Vec<String> {
    let mut names: Vec<_> = pairs.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

pub fn groups_are_the_pairs(groups: &Groups<u8, u32>, pairs: &[(String, u8)]) {
    let all = names(pairs);
    assert_eq!((groups.len(), groups.is_empty()), (all.len(), pairs.is_empty()));
    for number in 0..8 {
        let name = format!("room {number}");
        let mut expected: Vec<_> =
            pairs.iter().filter(|(room, _)| *room == name).map(|(_, key)| *key).collect();
        expected.sort();
        let members: Vec<_> = groups.members(&name).map(|(key, value)| (key, *value)).collect();
        assert_eq!(
            members,
            expected.iter().map(|key| (*key, u32::from(*key) * 3)).collect::<Vec<_>>(),
            "{name}"
        );
    }
    for key in 0..8 {
        let mut expected: Vec<_> =
            pairs.iter().filter(|(_, member)| *member == key).map(|(name, _)| name.clone()).collect();
        expected.sort();
        assert_eq!(
            groups.of(key).map(|name| name.to_string()).collect::<Vec<_>>(),
            expected,
            "groups of {key}"
        );
    }
}
