//! One path or a list of them.

use super::{
    Files,
    fault::{KeyFault, RecipeFault, wrong},
};
use serde::{Deserialize, Deserializer, de};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Paths as they are written.
pub(super) struct RawPaths(Vec<PathBuf>);

impl RawPaths {
    pub(super) fn validate(self, key: &str, folder: &Path) -> Result<Files, RecipeFault> {
        let Self(paths) = self;
        if paths.is_empty() {
            return Err(wrong(key, KeyFault::None));
        }
        Ok(Files(paths.into_iter().map(|path| folder.join(path)).collect()))
    }
}

impl<'de> Deserialize<'de> for RawPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// By hand, since an untagged enum would lose line and column of an error.
        struct OneOrMany;

        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = RawPaths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<RawPaths, E> {
                Ok(RawPaths(vec![path.into()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<RawPaths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(RawPaths(paths))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}
