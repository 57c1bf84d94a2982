//! What the example file says of each setting.

use std::collections::BTreeMap;

use super::Config;

/// The comment above each key of the example file; keys that follow each other share one. Plans are found under
/// the one that is always there.
#[must_use]
pub fn explanations() -> BTreeMap<String, String> {
    let (mut explained, mut section, mut comment, mut fresh) =
        (BTreeMap::new(), String::new(), String::new(), true);
    for line in Config::example().lines() {
        let bare = line.trim_start_matches('#');
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, comment, fresh) = (name.to_owned(), String::new(), true);
        } else if let Some(words) = line.strip_prefix("# ") {
            if fresh {
                comment.clear();
            }
            comment = format!("{comment} {words}").trim().to_owned();
            fresh = false;
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once(" = ")) {
            explained.insert(format!("{section}.{key}"), comment.clone());
            fresh = true;
        } else {
            (comment, fresh) = (String::new(), true);
        }
    }
    explained
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let explained = explanations();
        for setting in crate::config::resolve(None, BTreeMap::new()).unwrap().effective {
            assert!(explained.get(&setting.key).is_some_and(|words| words.len() > 10), "{}", setting.key);
        }
        assert!(explained["listen.grpc"].starts_with("The gRPC API"), "{}", explained["listen.grpc"]);
    }
}
