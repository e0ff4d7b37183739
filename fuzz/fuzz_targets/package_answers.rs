//! What registries and databases answer about a package: never panics, always ends, and a package is never found to be good
//! by attestations that nobody trusted signed, nor while somebody who was asked has not answered.
#![no_main]

use std::sync::LazyLock;

use countersign_trust::package::attestation::{RegistryKey, State, Trust};
use countersign_trust::package::list::Lists;
use countersign_trust::package::name::PackageRef;
use countersign_trust::package::plan::Plan;
use countersign_trust::package::report::Verdict;
use countersign_trust::package::requirement::Requirement;
use countersign_trust::package::source::{Answer, BaseUrl, SourceName, Sources};
use countersign_trust::package::version::Version;
use countersign_trust::root::TrustedRoot;
use libfuzzer_sys::fuzz_target;

/// A root whose signatures no seed holds.
static ROOT: LazyLock<TrustedRoot> = LazyLock::new(|| {
    TrustedRoot::parse(include_bytes!("../../crates/trust/tests/data/sigstore/staging.json")).expect("a trusted root")
});

// The first line names the package; answers follow, separated by lines of `--`, in the order in which they are asked for.
// A package without a version is one for the lists alone.
fuzz_target!(|data: &[u8]| {
    let Some((name, answers)) = split(data, b"\n") else { return };
    let name = String::from_utf8_lossy(name);
    let _ = (BaseUrl::parse(&name), RegistryKey::parse_all(answers), serde_json::from_slice::<Lists>(answers));
    let Ok(package) = PackageRef::parse(&name) else { return };
    assert_eq!(PackageRef::parse(&package.to_string()).as_ref(), Ok(&package));
    assert_eq!(PackageRef::parse(&package.purl()).as_ref(), Ok(&package));
    if let (Some(version), Ok(text)) = (package.version(), std::str::from_utf8(answers)) {
        let _ = Requirement::parse(package.ecosystem(), text).map(|requirement| requirement.matches(version));
        if let Ok(other) = Version::parse(package.ecosystem(), text) {
            assert_eq!(version.compare(&other), other.compare(version).map(std::cmp::Ordering::reverse));
        }
    }
    verify(package, answers);
});

fn verify(package: PackageRef, answers: &[u8]) {
    let at = |host: &str| BaseUrl::parse(&format!("https://{host}.example")).ok();
    let sources = Sources {
        pypi: at("pypi"),
        npm: at("npm"),
        crates_io: at("crates"),
        osv: at("osv"),
        github_advisory: at("github"),
    };
    let Ok(mut plan) = Plan::new(package, &Lists::default(), sources) else { return };
    let (mut rest, mut silent) = (Some(answers), false);
    for _ in 0..32 {
        let requests = plan.requests();
        if requests.is_empty() {
            break;
        }
        for request in requests {
            let host = request.url.strip_prefix("https://").and_then(|rest| rest.split_once('/')).map(|(host, _)| host);
            assert!(host.is_some_and(|host| host.ends_with(".example")), "{}", request.url);
            assert!(request.url.bytes().all(|b| b.is_ascii_graphic()) && !request.url.contains(['#', '"', '\\']));
            assert!(request.url.matches('?').count() == usize::from(request.source == SourceName::GithubAdvisory));
            assert!(!request.url.split('/').any(|part| part == "." || part == ".."), "{}", request.url);
            let Some(data) = rest else {
                silent = true;
                continue;
            };
            let (answer, more) = split(data, b"\n--\n").map_or((data, None), |(answer, more)| (answer, Some(more)));
            rest = more;
            plan.answer(request.number, &Answer::Http { status: 200, body: answer.to_vec() });
        }
    }
    assert!(plan.requests().is_empty(), "it ends");
    let report = plan.report(&Trust { root: Some(&ROOT), npm_keys: &[] }, 1_772_366_400_000);
    assert!(report.attestations.iter().all(|attestation| attestation.state != State::Verified));
    assert!(!silent || report.verdict != Verdict::Ok);
    assert!(serde_json::to_string(&report).is_ok());
}

fn split<'a>(data: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = data.windows(by.len()).position(|window| window == by)?;
    Some((&data[..at], &data[at + by.len()..]))
}
