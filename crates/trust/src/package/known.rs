//! Names that others are mistaken for.

use super::name::{Ecosystem, PackageRef};

/// Much used, and much imitated, with a space between two. Names of less than five letters are left out: too many good ones
/// are one slip away from them.
const PYPI: &str = "\
    aiohttp ansible attrs beautifulsoup4 black boto3 botocore certifi charset-normalizer click colorama \
    cryptography django fastapi flask httpx jinja2 jsonschema keras matplotlib numpy openai packaging \
    pandas paramiko pillow protobuf psutil pydantic pyjwt pytest python-dateutil pyyaml requests \
    scikit-learn scipy selenium setuptools sqlalchemy tensorflow torch transformers urllib3 virtualenv";
const NPM: &str = "\
    @types/node angular async axios babel-core bluebird body-parser chalk chokidar commander cross-env \
    cross-spawn debug dotenv electron esbuild eslint ethers express jquery lodash minimist moment \
    mongoose node-fetch nodemon prettier puppeteer react react-dom redux request rimraf rollup semver \
    typescript webpack winston yargs";
const CARGO: &str = "\
    actix-web anyhow async-trait base64 bitflags bytes chrono crossbeam diesel env_logger futures \
    hashbrown hyper indexmap itertools lazy_static once_cell openssl parking_lot proc-macro2 quote \
    rayon regex reqwest rustls semver serde serde_json serde_yaml thiserror tokio tracing \
    wasm-bindgen winapi";

/// A well-known name that this one is one slip away from.
pub(super) fn resembles(package: &PackageRef) -> Option<&'static str> {
    let list = match package.ecosystem() {
        Ecosystem::Pypi => PYPI,
        Ecosystem::Npm => NPM,
        Ecosystem::Cargo => CARGO,
    };
    let comparable = |name: &str| package.ecosystem().comparable(name);
    let name = comparable(package.name());
    if list.split(' ').any(|known| comparable(known) == name) {
        return None;
    }
    list.split(' ').find(|known| is_one_slip(name.as_bytes(), comparable(known).as_bytes()))
}

/// One character more, less, or other, or two neighbours exchanged.
fn is_one_slip(a: &[u8], b: &[u8]) -> bool {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], [_]) | ([_], []) => true,
        ([x, a @ ..], [y, b @ ..]) => {
            let other = a == b;
            let more = [&[*x], a].concat() == b;
            let less = a == [&[*y], b].concat();
            let swapped = matches!((a, b), ([p, a @ ..], [q, b @ ..]) if x == q && y == p && a == b);
            other || more || less || swapped
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_one_slip_away_are_told() {
        for (package, expected) in [
            ("pypi:requests", None),
            ("pypi:requets", Some("requests")),
            ("pypi:requestss", Some("requests")),
            ("pypi:reqeusts", Some("requests")),
            ("pypi:requesta", Some("requests")),
            ("pypi:equests", Some("requests")),
            ("pypi:rqeuetss", None),
            ("pypi:scikit.learn", None),
            ("pypi:scikit-leam", None),
            ("npm:lodahs", Some("lodash")),
            ("npm:loadsh", Some("lodash")),
            ("npm:@type/node", Some("@types/node")),
            ("npm:requests", Some("request")),
            ("cargo:serde-json", None),
            ("cargo:serd_json", Some("serde_json")),
            ("cargo:tokio1", Some("tokio")),
        ] {
            assert_eq!(resembles(&PackageRef::parse(package).unwrap()), expected, "{package}");
        }
        for (a, b, expected) in
            [("", "a", true), ("", "", false), ("ab", "ba", true), ("abc", "cab", false), ("a", "abc", false)]
        {
            assert_eq!(is_one_slip(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(is_one_slip(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
    }
}
