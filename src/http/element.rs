//! Element: its files as they are released, and a `config.json` that points at this homeserver.
//!
//! Invariants: nothing outside of its folder is served, hidden files are not, and the folder is
//! looked at anew for each request, so that Element can be put there while the node runs.

use std::path::{Component, Path, PathBuf};

use actix_files::NamedFile;
use actix_web::{
    Error, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{ALLOW, CACHE_CONTROL, HOST, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{gateway::Place, login::pages::escape};
use crate::{
    actors::element::{Loaded, Work},
    config::Release,
};

const MISSING: &str = include_str!("../../assets/no-element.html");
/// Has a page loaded again, in seconds, while Element comes.
const REFRESH: &str = r#"<meta http-equiv="refresh" content="2">"#;
/// Asked again each time, and answered from the cache where nothing changed.
const REVALIDATE: &str = "no-cache";
/// Never asked again: the name changes with the content.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Where Element's files are.
#[derive(Debug, Clone)]
pub struct ElementFiles {
    /// In this folder.
    pub folder: PathBuf,
    /// The release that belongs there.
    pub release: Release,
    /// What is done so that they are there.
    pub work: watch::Receiver<Work>,
    /// Whether others may register on this node.
    pub is_household: bool,
}

/// Configures the server of Element. [`Place`] and [`ElementFiles`] have to be there as app data,
/// and [`guard`] around all of it.
pub fn configure(config: &mut web::ServiceConfig) {
    config.default_service(web::to(serve));
}

/// Serves a file, the configuration, or the page that says what is missing.
async fn serve(
    request: HttpRequest,
    place: web::Data<Place>,
    files: web::Data<ElementFiles>,
) -> HttpResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET, HEAD")).finish();
    }
    let Ok(path) = percent_decode_str(request.path()).decode_utf8() else {
        return HttpResponse::NotFound().finish();
    };
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    // `config.<host>.json` goes before `config.json` where Element runs under several names.
    if name.starts_with("config.") && name.ends_with(".json") && !name.contains('/') {
        return HttpResponse::Ok().insert_header((CACHE_CONTROL, REVALIDATE)).json(client_config(
            &place.url_seen_by(&request, place.homeserver),
            files.is_household,
        ));
    }
    let Some(file) = locate(&files.folder, name) else {
        if name == "index.html" {
            return missing(&files, &place.url_seen_by(&request, place.homeserver));
        }
        return HttpResponse::NotFound().finish();
    };
    match NamedFile::open(file) {
        Ok(file) => {
            let mut answer = file.disable_content_disposition().into_response(&request);
            let cache = HeaderValue::from_static(caching(name));
            answer.headers_mut().insert(CACHE_CONTROL, cache);
            answer
        }
        Err(_) => HttpResponse::NotFound().finish(),
    }
}

/// Returns the file that a path names, if it is one inside of the folder.
fn locate(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let plain = name.components().all(|part| match part {
        Component::Normal(part) => part
            .to_str()
            .is_some_and(|part| !part.starts_with('.') && !part.contains(['\\', ':', '\0'])),
        _ => false,
    });
    if !plain {
        return None;
    }
    // Symbolic links may lead out of the folder.
    let folder = folder.canonicalize().ok()?;
    let file = folder.join(name).canonicalize().ok()?;
    (file.starts_with(&folder) && file.is_file()).then_some(file)
}

/// Says how long a file may be kept: for ever where its name holds a hash of its content.
fn caching(name: &str) -> &'static str {
    let hashed = name.rsplit('/').next().unwrap_or_default().split('.').any(|part| {
        part.len() >= 7
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte.is_ascii_digit())
    });
    if hashed || name.starts_with("bundles/") { FOR_EVER } else { REVALIDATE }
}

/// Returns Element's `config.json`. Who registers may end the account; the owner's is the node's.
fn client_config(homeserver: &str, is_household: bool) -> Value {
    json!({
        "default_server_config": {"m.homeserver": {"base_url": homeserver}},
        "brand": "Element",
        "default_country_code": "US",
        "disable_custom_urls": true,
        "disable_guests": true,
        // The server name is no DNS name: looking it up tells others who one is, and finds nothing.
        "enable_client_well_known_lookups": false,
        "disable_3pid_login": true,
        "disable_login_language_selector": false,
        "default_federate": true,
        "room_directory": {"servers": []},
        // Else Element offers, and asks, somebody's server on the Internet for bots and stickers.
        "integrations_ui_url": "",
        "integrations_rest_url": "",
        "setting_defaults": {
            "UIFeature.registration": is_household,
            "UIFeature.passwordReset": false,
            "UIFeature.deactivate": is_household,
            "UIFeature.identityServer": false,
            "UIFeature.thirdPartyId": false,
            "UIFeature.feedback": false,
        },
    })
}

fn missing(files: &ElementFiles, homeserver: &str) -> HttpResponse {
    let ElementFiles { folder, release, work, .. } = files;
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let (state, comes) = match &*work.borrow() {
        Work::None => ("It is not fetched by itself here.".to_owned(), false),
        Work::Loading(Loaded { bytes, total: None }) => {
            (format!("It is on its way: {} MiB so far.", mib(*bytes)), true)
        }
        Work::Loading(Loaded { bytes, total: Some(total) }) => {
            (format!("It is on its way: {} of {} MiB.", mib(*bytes), mib(*total)), true)
        }
        Work::Unpacking => ("It came, and is being unpacked.".to_owned(), true),
        Work::Failed(why, seconds) => {
            (format!("It did not come: {why}. It is tried again within {seconds} s."), true)
        }
    };
    let page = MISSING
        .replace("{{refresh}}", if comes { REFRESH } else { "" })
        .replace("{{state}}", &escape(&state))
        .replace("{{version}}", &escape(&release.version))
        .replace("{{url}}", &escape(&release.url))
        .replace("{{sha256}}", &escape(&release.sha256))
        .replace("{{path}}", &escape(&folder.display().to_string()))
        .replace("{{homeserver}}", &escape(homeserver));
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .content_type("text/html; charset=utf-8")
        .body(page)
}

/// Refuses foreign Hosts, and adds the headers that Element's documentation asks for: it may be
/// framed by itself only, which it does.
pub async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let listen = request.app_data::<web::Data<Place>>().and_then(|place| place.element);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let ours = listen.zip(host).is_some_and(|(listen, host)| Place::is_our_host(host, listen));
    let mut answer = if ours {
        next.call(request).await?.map_into_boxed_body()
    } else {
        let why = "the Host header names another server than this one";
        request.into_response(HttpResponse::Forbidden().body(why))
    };
    for (name, value) in [
        ("content-security-policy", "frame-ancestors 'self'"),
        ("x-frame-options", "SAMEORIGIN"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_folder_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("element");
        std::fs::create_dir_all(inside.join("bundles/abc")).unwrap();
        std::fs::write(inside.join("bundles/abc/x.js"), "x").unwrap();
        std::fs::write(inside.join(".secret"), "x").unwrap();
        std::fs::write(folder.path().join("key"), "x").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path().join("key"), inside.join("link")).unwrap();
        assert!(locate(&inside, "bundles/abc/x.js").is_some());
        for name in [
            "../key",
            "bundles/../../key",
            "/etc/passwd",
            ".secret",
            "bundles",
            "link",
            "nothing",
            "..\\key",
            "",
        ] {
            assert!(locate(&inside, name).is_none(), "{name}");
        }
    }

    #[test]
    fn what_has_a_hash_in_its_name_is_kept() {
        for (name, expected) in [
            ("bundles/0123456789abcdef/init.js", FOR_EVER),
            ("fonts/inter.bc9b32a.woff2", FOR_EVER),
            ("i18n/en_EN.7d8ff27.json", FOR_EVER),
            ("index.html", REVALIDATE),
            ("version", REVALIDATE),
            ("sw.js", REVALIDATE),
            ("welcome/feedback.png", REVALIDATE),
        ] {
            assert_eq!(caching(name), expected, "{name}");
        }
    }

    #[test]
    fn people_register_in_element_where_they_may() {
        for is_household in [false, true] {
            let config = client_config("http://127.84.48.2", is_household);
            let settings = &config["setting_defaults"];
            for feature in ["UIFeature.registration", "UIFeature.deactivate"] {
                assert_eq!(settings[feature], is_household, "{feature}");
            }
        }
    }
}
