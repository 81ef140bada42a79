//! What a web page says of itself: OpenGraph, and what is older than that. Pure.

use encoding_rs::Encoding;
use lol_html::{AsciiCompatibleEncoding, HtmlRewriter, MemorySettings, Settings, element, text};
use url::Url;

use super::messages::Preview;

/// Longest name of a property.
const NAME_LEN: usize = 100;
/// Characters of a value.
const VALUE_CHARS: usize = 1000;
/// Properties of one page.
const PROPERTIES: usize = 50;
/// Memory for reading it, beside the page itself.
const MEMORY: usize = 1024 * 1024;
/// Bytes of a title that are gathered.
const TITLE_LEN: usize = 8 * 1024;

/// What a page says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    /// What is shown of it.
    pub(super) preview: Preview,
    /// Where its picture is.
    pub(super) picture: Option<Url>,
}

/// Returns text as a browser shows it: entities are characters, and white space is one space.
fn shown(text: &str) -> String {
    let text = html_escape::decode_html_entities(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(VALUE_CHARS).collect()
}

/// Reads a page as far as it came. `content_type` is what its server calls it, `url` where it is.
pub(super) fn read(html: &[u8], content_type: &str, url: &Url) -> Page {
    let (mut metas, mut title) = (Vec::new(), String::new());
    look_for(html, charset(content_type), &mut metas, &mut title);
    compose(metas, &shown(&title), url)
}

/// Finds what a page says of itself, and its title.
fn look_for(
    html: &[u8],
    charset: AsciiCompatibleEncoding,
    metas: &mut Vec<(String, String)>,
    title: &mut String,
) {
    let on_meta = element!("meta[content]", |meta| {
        let name = meta.get_attribute("property").or_else(|| meta.get_attribute("name"));
        let name = name.unwrap_or_default().trim().to_ascii_lowercase();
        let known =
            name == "description" || name.starts_with("og:") || name.starts_with("twitter:");
        if known && name.len() <= NAME_LEN && metas.len() < 4 * PROPERTIES {
            metas.push((name, shown(&meta.get_attribute("content").unwrap_or_default())));
        }
        Ok(())
    });
    let mut titled = false;
    let on_title = text!("title", |part| {
        if !titled && title.len() < TITLE_LEN {
            title.push_str(part.as_str());
        }
        // Drawings in a page have titles too: the first one is the page's.
        titled |= part.last_in_text_node() && !title.trim().is_empty();
        Ok(())
    });
    let memory = MemorySettings::new().with_max_allowed_memory_usage(MEMORY);
    let settings = Settings::new()
        .append_element_content_handler(on_meta)
        .append_element_content_handler(on_title)
        .with_encoding(charset)
        .with_adjust_charset_on_meta_tag(true)
        .with_memory_settings(memory)
        .with_strict(false);
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    // What cannot be read on from somewhere was read up to there.
    if rewriter.write(html).is_ok() {
        let _ = rewriter.end();
    }
}

fn charset(content_type: &str) -> AsciiCompatibleEncoding {
    let named = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    let encoding = named.and_then(|label| Encoding::for_label(label.as_bytes()));
    encoding.and_then(AsciiCompatibleEncoding::new).unwrap_or_else(AsciiCompatibleEncoding::utf_8)
}

/// Puts together what was found: the first of each name counts.
fn compose(metas: Vec<(String, String)>, title: &str, url: &Url) -> Page {
    let first = |wanted: &str| {
        let found = metas.iter().find(|(name, value)| name == wanted && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    let picture = ["og:image:secure_url", "og:image", "og:image:url", "twitter:image"];
    let picture = picture.into_iter().find_map(first).and_then(|at| url.join(&at).ok());
    let picture = picture.filter(|at| matches!(at.scheme(), "http" | "https"));
    let mut preview = Preview::new();
    for (name, value) in &metas {
        // Pictures and films are at a stranger's: of a picture, ours is told.
        let theirs = ["og:image", "og:video", "og:audio"].iter().any(|kind| name.starts_with(kind));
        let wanted = name.starts_with("og:") && !value.is_empty() && !theirs;
        if wanted && !preview.contains_key(name) && preview.len() < PROPERTIES {
            preview.insert(name.clone(), value.clone().into());
        }
    }
    let older = [
        ("og:title", first("twitter:title").or_else(|| Some(title.to_owned()))),
        ("og:description", first("twitter:description").or_else(|| first("description"))),
    ];
    for (name, value) in older {
        if let Some(value) = value.filter(|value| !value.is_empty())
            && !preview.contains_key(name)
        {
            preview.insert(name.to_owned(), value.into());
        }
    }
    Page { preview, picture }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read_at(html: &[u8], content_type: &str) -> (Value, Option<String>) {
        let url = "https://example.org/news/today?x=1".parse().unwrap();
        let page = read(html, content_type, &url);
        (Value::Object(page.preview), page.picture.map(String::from))
    }

    #[test]
    fn a_page_says_what_it_is() {
        let html = br#"<!doctype html><html><head><title>The
            older &amp; longer title</title>
            <meta property="og:title" content="Tea &amp; cake &#x1F370;"/>
            <meta property="og:title" content="a second one">
            <meta property="OG:site_name" content=" Example ">
            <meta name="description" content="What it is about">
            <meta property="og:image" content="/cake.png">
            <meta property="og:image:width" content="999999">
            <meta property="og:video" content="https://films.example/cake">
            </head><body><svg><title>a drawing</title></svg></body>"#;
        let (preview, picture) = read_at(html, "text/html; charset=utf-8");
        let expected = json!({
            "og:title": "Tea & cake \u{1f370}",
            "og:site_name": "Example",
            "og:description": "What it is about",
        });
        assert_eq!(preview, expected);
        assert_eq!(picture.as_deref(), Some("https://example.org/cake.png"));
    }

    #[test]
    fn a_page_that_says_little_has_its_title() {
        for (html, title) in [
            ("<title>a\n  b</title>", json!({"og:title": "a b"})),
            ("<svg><title></title></svg><title>x</title>", json!({"og:title": "x"})),
            ("<p>nothing", json!({})),
            ("", json!({})),
            ("<meta name=twitter:title content=t>", json!({"og:title": "t"})),
            ("<title>never ended", json!({"og:title": "never ended"})),
        ] {
            assert_eq!(read_at(html.as_bytes(), "text/html"), (title, None), "{html}");
        }
    }

    #[test]
    fn the_letters_are_those_that_the_page_is_written_in() {
        let latin = b"<title>caf\xe9</title>";
        for content_type in ["text/html; charset=iso-8859-1", "text/html;charset=\"windows-1252\""]
        {
            assert_eq!(read_at(latin, content_type).0, json!({"og:title": "caf\u{e9}"}));
        }
        let declared = b"<meta charset=windows-1252><title>caf\xe9</title>";
        assert_eq!(read_at(declared, "text/html").0, json!({"og:title": "caf\u{e9}"}));
        let unknown = read_at("<title>caf\u{e9}</title>".as_bytes(), "text/html; charset=x-none");
        assert_eq!(unknown.0, json!({"og:title": "caf\u{e9}"}));
    }

    #[test]
    fn a_picture_is_on_the_web() {
        for (at, wanted) in [
            ("https://pictures.example/a.png", Some("https://pictures.example/a.png")),
            ("//pictures.example/a.png", Some("https://pictures.example/a.png")),
            ("a.png", Some("https://example.org/news/a.png")),
            ("file:///etc/passwd", None),
            ("data:image/png;base64,AAAA", None),
            ("http://[", None),
        ] {
            let html = format!("<meta property='og:image' content='{at}'>");
            assert_eq!(read_at(html.as_bytes(), "text/html").1.as_deref(), wanted, "{at}");
        }
    }

    #[test]
    fn a_page_of_a_liar_is_bounded() {
        let long = "x".repeat(10 * VALUE_CHARS);
        let html = format!("<meta property='og:title' content='{long}'>");
        let (preview, _) = read_at(html.as_bytes(), "text/html");
        assert_eq!(preview["og:title"].as_str().unwrap().len(), VALUE_CHARS);
        let many: String =
            (0..10_000).map(|n| format!("<meta property='og:x{n}' content='y'>")).collect();
        let (preview, _) = read_at(many.as_bytes(), "text/html");
        assert_eq!(preview.as_object().unwrap().len(), PROPERTIES);
        let deep = "<div>".repeat(200_000) + "<title>deep</title>";
        let (preview, _) = read_at(deep.as_bytes(), "text/html");
        assert!(preview.as_object().unwrap().len() <= 1);
        let open = format!("<title>t</title><meta content='{}", "y".repeat(3 * MEMORY));
        assert_eq!(read_at(open.as_bytes(), "text/html").0, json!({"og:title": "t"}));
    }
}
