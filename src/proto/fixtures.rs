//! Vectors that others can check themselves against: `tests/fixtures/*.json`, which the tests here make
//! and compare. `tests/fixtures/make` writes them anew.

use std::{fs, path::Path};

use serde_json::Value;

/// Compares what was made with the file, or writes the file where that is asked for.
pub(crate) fn check(name: &str, made: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if std::env::var_os("MAKE_FIXTURES").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(kept, *made, "{name} is not what is made today");
}
