//! Pictures and files in the configuration: `media.*`. Pure.

use serde::Deserialize;

/// `media.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MediaConfig {
    /// The largest file that is taken from our clients, or fetched for them.
    pub max_upload_bytes: u64,
    /// What media may take of the disk, ours and others' together.
    pub max_bytes: u64,
    /// What those of one user of ours may.
    pub max_user_bytes: u64,
    /// For how many days media of others are kept that nobody here looks at.
    pub remote_days: u32,
    /// Of which web pages previews are made.
    pub previews: Previews,
}

/// Of which web pages previews are made: making one tells its server that somebody here read the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Previews {
    /// Of none.
    #[default]
    Off,
    /// Of those on the Internet.
    Internet,
    /// Of those at home too: whoever writes a link into a room has this node ask there.
    Everywhere,
}

impl Previews {
    /// The words for them in the configuration.
    pub(super) const WORDS: [&str; 3] = ["off", "internet", "everywhere"];
}

impl Default for MediaConfig {
    fn default() -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        Self {
            max_upload_bytes: GIB,
            max_bytes: 20 * GIB,
            max_user_bytes: 10 * GIB,
            remote_days: 30,
            previews: Previews::Off,
        }
    }
}

impl MediaConfig {
    /// The largest file that can be configured: the list of its pieces goes into one answer.
    const UPLOAD_MOST: u64 = 8 * 1024 * 1024 * 1024;

    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_upload_bytes > Self::UPLOAD_MOST {
            return Err(format!("media.maxUploadBytes is {} at most", Self::UPLOAD_MOST));
        }
        if self.max_upload_bytes > self.max_bytes {
            let (one, all) = (self.max_upload_bytes, self.max_bytes);
            return Err(format!(
                "media.maxUploadBytes is {one}, which is more than all media may take: set \
                 media.maxBytes, which is {all}, to more"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_off_and_their_words_are_known() {
        assert_eq!(MediaConfig::default().previews, Previews::Off);
        let read = |word: &str| serde_json::from_value::<Previews>(word.into()).unwrap();
        let read = Previews::WORDS.map(read);
        assert_eq!(read, [Previews::Off, Previews::Internet, Previews::Everywhere]);
    }
}
