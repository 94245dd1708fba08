//! Where a configuration comes from: a file, and what is set besides. The same source can be loaded
//! again when the file has changed.

use super::{
    Config, ModelConfig,
    check::check,
    error::{ConfigError, Place, Problem},
    overrides::Override,
    raw::RawConfig,
    relations::Relations,
    schema::schema,
    tree::{Node, Value},
    trust::{read_still, untrusted},
};
use crate::files::open_regular;
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Largest configuration file.
const MAX_FILE_BYTES: usize = 1 << 20;
/// Most problems that are told of.
const MAX_PROBLEMS: usize = 1000;

/// Looks into a model's bundle, and says which of the model's keys are wrong by that, and how.
pub type Inspect<'a> = &'a mut dyn FnMut(&ModelConfig) -> Vec<(&'static str, String)>;

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    variables: Vec<Override>,
    arguments: Vec<Override>,
}

impl Source {
    /// A file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), variables: Vec::new(), arguments: Vec::new() }
    }

    /// With what these environment variables set, such as `SYNCHROMESH_CONFIG__LOG__FILTER=debug`,
    /// instead of what the file says there.
    pub fn with_variables(mut self, all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        self.variables = Override::variables(all);
        self
    }

    /// With what these arguments set, such as `log.filter=debug`, instead of what the file and
    /// variables say there. Of two that set the same key the later one counts.
    pub fn with_arguments<'a>(mut self, all: impl IntoIterator<Item = &'a String>) -> Self {
        self.arguments = all.into_iter().map(|argument| Override::argument(argument)).collect();
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file and checks everything, also the files that it names.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.load_inspected(&mut |_| Vec::new())
    }

    /// The same, and what `inspect` finds wrong counts, too. It sees the models whose files may be
    /// relied on.
    pub fn load_inspected(&self, inspect: Inspect<'_>) -> Result<Config, ConfigError> {
        let invalid = |problems| ConfigError::Invalid { path: self.path.clone(), problems };
        let text = self.text()?.map_err(|problem| invalid(vec![problem]))?;
        let overrides = self.variables.iter().chain(&self.arguments);
        resolve(&text, overrides, Some(inspect)).map_err(invalid)
    }

    /// The file's text, or what makes it none.
    fn text(&self) -> Result<Result<String, Problem>, ConfigError> {
        let read = |source| ConfigError::Read { path: self.path.clone(), source };
        let whole = |what| Ok(Err(Problem { place: Place::File, key: String::new(), what }));
        if let Some(what) = untrusted(&self.path).map_err(read)? {
            return whole(what);
        }
        let file = open_regular(&self.path).map_err(read)?;
        let Some(bytes) = read_still(&file, MAX_FILE_BYTES as u64).map_err(read)? else {
            return whole("was written while it was read: rename a new file into place".into());
        };
        if bytes.len() > MAX_FILE_BYTES {
            let what = format!("larger than {MAX_FILE_BYTES} bytes");
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, what)));
        }
        Ok(String::from_utf8(bytes)
            .map_err(|error| not_text(&error.utf8_error(), error.as_bytes())))
    }
}

impl Config {
    /// Checks a configuration's text; `path` is for messages. No file is touched.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        resolve(text, [], None)
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }
}

/// Where bytes stop to be text.
fn not_text(error: &std::str::Utf8Error, bytes: &[u8]) -> Problem {
    let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let line = good.matches('\n').count() + 1;
    let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let what = "is not UTF-8 from here on: save the file as UTF-8".into();
    Problem { place: Place::At { line, column }, key: String::new(), what }
}

/// What a text and overrides say together, or all that is wrong with it. Files are looked at if there
/// is something to look into bundles with.
fn resolve<'a>(
    text: &str,
    overrides: impl IntoIterator<Item = &'a Override>,
    files: Option<Inspect<'_>>,
) -> Result<Config, Vec<Problem>> {
    let whole = |what: String| vec![Problem { place: Place::File, key: String::new(), what }];
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = Node::parse(text).map_err(|problem| vec![problem])?;
    if matches!(tree.value, Value::Null) {
        return Err(whole(
            "says nothing: name at least one model. Or was it written by half?".into(),
        ));
    }
    let schema = schema();
    let set = overrides.into_iter().map(|set| set.apply(&mut tree, &schema));
    let mut problems: Vec<_> = set.filter_map(Result::err).collect();
    check(&mut tree, &schema, &mut problems);
    match serde_yaml::from_value::<RawConfig>(tree.sound()) {
        Ok(raw) => {
            let mut relations = Relations::of(&raw, &tree, &mut problems);
            relations.keys();
            if let Some(inspect) = files {
                relations.files();
                relations.bundles(inspect);
            }
            if problems.is_empty() {
                return Ok(raw.into());
            }
        }
        // Most likely a consequence of what has been told already.
        Err(error) if problems.is_empty() => return Err(whole(error.to_string())),
        Err(_) => {}
    }
    problems.sort();
    if let more @ 1.. = problems.len().saturating_sub(MAX_PROBLEMS) {
        problems.truncate(MAX_PROBLEMS);
        problems.extend(whole(format!("{more} more problems are not listed")));
    }
    Err(problems)
}
