//! Packages of public registries: what is asked, what answers mean, and that no lie passes for a clean bill.
//! Attestations are real ones, see `tests/data/packages/SOURCE.md`; the rest has the shapes that the services document.

use std::fs;
use std::path::Path;

use countersign_trust::package::attestation::{RegistryKey, State, Trust};
use countersign_trust::package::list::Lists;
use countersign_trust::package::name::PackageRef;
use countersign_trust::package::plan::Plan;
use countersign_trust::package::report::{Report, SourceReport, Verdict};
use countersign_trust::package::source::{Answer, BaseUrl, Method, Request, SourceName, Sources, Status};
use countersign_trust::root::TrustedRoot;
use serde_json::{Value, json};

const NOW_MS: i64 = 1_772_366_400_000; // 2026-03-01
const GITHUB_SHA256: &str = "9bb1add04b1b4e182be6b0b80931593f7a291eb49d69b4fd728a5d4cbcdc4bd3";
const GITHUB_FILE: &str = "pypi_attestations-0.0.19.tar.gz";
const NPM_SHA512: &str = "RtTi90xIdzFmQAAKb9+Ki1nx4IR2Z5c+mFn3dN0xuPHgk3gTt3f7ZqKsZ9UFQP40ZAlm7un8LMyjhwgrTIXNPA==";
const NPM_PUBLISH_SHA512: &str =
    "dhdv+jOAi1RgLHw13lxumk3rlgZtumUz9QrCNPTx9MazUnUV3BfAb74oYAMPQQ7uaeogB5vTosbz3POzKbEHUQ==";
const NPM_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1Olb3zMAFFxXKHiIkQO5cJ3Yhl5i6UPp+IhuteBJbuHcA5UogKo0EWtlWwW6KSaKoTNEYL7JlCQiVnkhBktUgg==";

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packages").join(name)).unwrap()
}

fn json_data(name: &str) -> Value {
    serde_json::from_slice(&data(name)).unwrap()
}

fn public_good() -> TrustedRoot {
    TrustedRoot::parse(&data("../sigstore/public-good.json")).unwrap()
}

/// Everybody, each at an address of their own.
fn sources() -> Sources {
    let at = |host: &str| Some(BaseUrl::parse(&format!("https://{host}.example")).unwrap());
    Sources { pypi: at("pypi"), npm: at("npm"), crates_io: at("crates"), osv: at("osv"), github_advisory: at("github") }
}

/// A world of services: what each address answers. Addresses that are not listed do not answer.
#[derive(Clone)]
struct Services(Vec<(String, Answer)>);

impl Services {
    fn new() -> Self {
        let mut services = Self(Vec::new());
        services.put("https://osv.example/v1/query", json!({}));
        services.put("https://github.example/advisories?type=reviewed", json!([]));
        services.put("https://github.example/advisories?type=malware", json!([]));
        services
    }

    fn put(&mut self, url: &str, body: Value) -> &mut Self {
        self.answer(url, Answer::Http { status: 200, body: body.to_string().into_bytes() })
    }

    fn status(&mut self, url: &str, status: u16) -> &mut Self {
        self.answer(url, Answer::Http { status, body: b"<html>".to_vec() })
    }

    fn answer(&mut self, url: &str, answer: Answer) -> &mut Self {
        self.0.insert(0, (url.to_owned(), answer));
        self
    }

    fn ask(&self, request: &Request) -> Answer {
        let found = self.0.iter().find(|(url, _)| match url.ends_with('$') {
            true => request.url == url.trim_end_matches('$'),
            false => request.url.starts_with(url.as_str()),
        });
        found.map_or(Answer::Nothing("connection refused".to_owned()), |(_, answer)| answer.clone())
    }
}

fn run_with(
    package: &str,
    lists: &Lists,
    sources: Sources,
    services: &Services,
    trust: &Trust<'_>,
) -> (Report, Vec<Request>) {
    let package = PackageRef::parse(package).unwrap();
    let mut plan = Plan::new(package, lists, sources).unwrap();
    let mut asked = Vec::new();
    loop {
        let requests = plan.requests();
        if requests.is_empty() {
            break;
        }
        for request in requests {
            assert!(plan.answer(request.number, &services.ask(&request)), "each answer is taken once");
            assert!(!plan.answer(request.number, &services.ask(&request)), "each answer is taken once");
            asked.push(request);
        }
        assert!(asked.len() < 500, "it ends");
    }
    (plan.report(trust, NOW_MS), asked)
}

fn run(package: &str, services: &Services) -> Report {
    let root = public_good();
    let trust = Trust { root: Some(&root), npm_keys: &[] };
    run_with(package, &Lists::default(), sources(), services, &trust).0
}

fn source(report: &Report, name: SourceName) -> &SourceReport {
    report.sources.iter().find(|s| s.source == name).unwrap()
}

fn pypi_release(name: &str, version: &str, files: &[(&str, &str)]) -> Value {
    let file = |(name, sha256): &(&str, &str)| {
        json!({"filename": name, "digests": {"md5": "x", "sha256": sha256}, "packagetype": "sdist", "yanked": false,
            "upload_time_iso_8601": "2025-01-10T12:00:00.123456Z", "size": 1})
    };
    json!({
        "info": {"name": name, "version": version, "yanked": false, "yanked_reason": null, "home_page": null,
            "project_urls": {"Homepage": "https://pypi.example/", "Source": "https://github.com/trailofbits/pypi-attestations"}},
        "last_serial": 1, "urls": files.iter().map(file).collect::<Vec<_>>(), "vulnerabilities": [],
        "ownership": {"organization": null, "roles": [{"role": "Owner", "user": "ann"}, {"role": "Maintainer", "user": "bo"}]},
    })
}

fn pypi_history(name: &str) -> Value {
    json!({"info": {"name": name, "version": "0.0.21"}, "releases": {
        "0.0.1": [{"upload_time_iso_8601": "2024-03-01T00:00:00Z", "yanked": true}],
        "0.0.19": [{"upload_time_iso_8601": "2025-01-10T12:00:00Z"}],
        "0.0.21": [{"upload_time_iso_8601": "2025-02-01T00:00:00Z"}],
        "0.0.22": [],
    }})
}

fn pypi_services() -> Services {
    let mut services = Services::new();
    let release = pypi_release("pypi-attestations", "0.0.19", &[(GITHUB_FILE, GITHUB_SHA256)]);
    services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
    services.put("https://pypi.example/pypi/pypi-attestations/json$", pypi_history("pypi-attestations"));
    services.put(&provenance_url(GITHUB_FILE), json_data("pypi-github.provenance.json"));
    services
}

fn provenance_url(file: &str) -> String {
    format!("https://pypi.example/integrity/pypi-attestations/0.0.19/{file}/provenance$")
}

const PYPI: &str = "pypi:PyPI_Attestations==0.0.19";

fn npm_services() -> Services {
    let mut services = Services::new();
    services.put("https://npm.example/sigstore/2.0.0$", npm_release("2.0.0", NPM_SHA512));
    services.put("https://npm.example/sigstore$", npm_history());
    let bundle = json_data("npm-provenance.sigstore.json");
    let attestations = json!({"attestations": [{"predicateType": "https://slsa.dev/provenance/v1", "bundle": bundle}]});
    services.put("https://npm.example/-/npm/v1/attestations/sigstore@2.0.0$", attestations);
    services
}

fn npm_release(version: &str, sha512: &str) -> Value {
    json!({"name": "sigstore", "version": version, "maintainers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "repository": {"type": "git", "url": "git+https://github.com/sigstore/sigstore-js.git"},
        "dist": {"shasum": "x", "integrity": format!("sha512-{sha512}"), "tarball": "https://npm.example/x.tgz",
            "attestations": {"url": "https://elsewhere.example/", "provenance": {"predicateType": "https://slsa.dev/provenance/v1"}}},
        "_npmUser": {"name": "ann", "email": "ann@example.com"}})
}

fn npm_history() -> Value {
    json!({"name": "sigstore", "dist-tags": {"latest": "3.0.0"}, "versions": {"1.3.0": {}, "2.0.0": {}, "3.0.0": {}},
        "time": {"created": "2022-06-01T00:00:00.000Z", "modified": "2025-01-01T00:00:00.000Z",
            "2.0.0": "2023-08-18T16:05:40.000Z", "3.0.0": "2024-10-01T00:00:00.000Z"}})
}

const NPM: &str = "npm:sigstore@2.0.0";

fn cargo_services() -> Services {
    let mut services = Services::new();
    let version = json!({"version": {"crate": "serde_json", "num": "1.0.100", "created_at": "2023-07-01T00:00:00.000000Z",
        "yanked": false, "yank_message": null, "checksum": "ab".repeat(32), "repository": "https://github.com/serde-rs/json",
        "published_by": {"login": "dtolnay", "id": 1}, "trustpub_data": null}});
    services.put("https://crates.example/api/v1/crates/serde-json/1.0.100$", version);
    let about = json!({"crate": {"name": "serde_json", "max_stable_version": "1.0.149", "num_versions": 180,
        "created_at": "2015-08-07T00:00:00Z"}, "versions": [
            {"num": "1.0.100", "created_at": "2023-07-01T00:00:00Z", "yanked": false}, {"num": "1.0.99", "yanked": true}]});
    services.put("https://crates.example/api/v1/crates/serde-json$", about);
    services
}

const CARGO: &str = "cargo:serde-json@1.0.100";

#[test]
fn a_release_of_each_registry_that_nothing_is_known_against() {
    let pypi = run(PYPI, &pypi_services());
    assert_eq!(pypi.verdict, Verdict::Ok, "{pypi:#?}");
    assert_eq!(
        (pypi.package.as_str(), pypi.checked_at.as_str()),
        ("pypi:pypi-attestations==0.0.19", "2026-03-01T12:00:00Z")
    );
    assert_eq!(pypi.attestations[0].state, State::Verified);
    assert_eq!(pypi.attestations[0].repository.as_deref(), Some("https://github.com/trailofbits/pypi-attestations"));
    assert!(pypi.attestations[0].signed_at.is_some() && pypi.attestations[0].logs[0].log == "rekor.sigstore.dev");
    let facts = &pypi.reputation;
    assert_eq!((facts.age_days, facts.package_age_days, facts.releases), (Some(414), Some(730), Some(4)));
    assert_eq!((facts.maintainers, facts.yanked_releases, facts.latest.as_deref()), (Some(2), Some(1), Some("0.0.21")));
    assert_eq!(facts.repository.as_deref(), Some("https://github.com/trailofbits/pypi-attestations"));

    let npm = run(NPM, &npm_services());
    assert_eq!(npm.verdict, Verdict::Ok, "{npm:#?}");
    assert_eq!(npm.attestations[0].state, State::Verified);
    assert_eq!(npm.attestations[0].signed_at, Some(1_692_374_735));
    let facts = &npm.reputation;
    assert_eq!((facts.releases, facts.maintainers, facts.age_days), (Some(3), Some(3), Some(925)));
    assert_eq!(facts.published_at.as_deref(), Some("2023-08-18T16:05:40Z"));

    let cargo = run(CARGO, &cargo_services());
    assert_eq!(cargo.verdict, Verdict::Ok, "{cargo:#?}");
    assert_eq!(source(&cargo, SourceName::Attestations).status, Status::NotApplicable);
    assert_eq!((cargo.reputation.releases, cargo.reputation.yanked_releases), (Some(180), Some(1)));
    for report in [pypi, npm, cargo] {
        assert_eq!(report.vulnerability_counts.map(|c| c.total()), Some(0));
        assert_eq!(source(&report, SourceName::List).status, Status::NotConfigured);
        serde_json::to_string(&report).unwrap();
    }
}

#[test]
fn whom_it_asks_and_in_which_order() {
    let root = public_good();
    let trust = Trust { root: Some(&root), npm_keys: &[] };
    let asked = |package: &str, services: &Services| -> Vec<String> {
        let (_, asked) = run_with(package, &Lists::default(), sources(), services, &trust);
        asked.iter().map(|r| r.url.replace(".example", "")).collect()
    };
    assert_eq!(
        asked(PYPI, &pypi_services()),
        [
            "https://pypi/pypi/pypi-attestations/0.0.19/json",
            "https://pypi/pypi/pypi-attestations/json",
            "https://pypi/integrity/pypi-attestations/0.0.19/pypi_attestations-0.0.19.tar.gz/provenance",
            "https://osv/v1/query",
            "https://github/advisories?type=reviewed&ecosystem=pip&affects=pypi-attestations%400.0.19&per_page=100",
            "https://github/advisories?type=malware&ecosystem=pip&affects=pypi-attestations%400.0.19&per_page=100",
        ]
    );
    assert_eq!(
        asked("npm:@scope/name@1.0.0-rc.1", &Services::new()),
        [
            "https://npm/@scope%2Fname/1.0.0-rc.1",
            "https://npm/@scope%2Fname",
            "https://osv/v1/query",
            "https://github/advisories?type=reviewed&ecosystem=npm&affects=%40scope%2Fname%401.0.0-rc.1&per_page=100",
            "https://github/advisories?type=malware&ecosystem=npm&affects=%40scope%2Fname%401.0.0-rc.1&per_page=100",
        ]
    );
    // Databases know a crate by the registry's spelling, and are asked under it.
    let (_, requests) = run_with(CARGO, &Lists::default(), sources(), &cargo_services(), &trust);
    let osv = requests.iter().find(|r| r.source == SourceName::Osv).unwrap();
    let body: Value = serde_json::from_slice(osv.body.as_ref().unwrap()).unwrap();
    assert_eq!(body, json!({"package": {"ecosystem": "crates.io", "name": "serde_json"}, "version": "1.0.100"}));
    assert_eq!(osv.method, Method::Post);
    let github = requests.iter().find(|r| r.source == SourceName::GithubAdvisory).unwrap();
    assert!(
        github.url.contains("affects=serde_json%401.0.100,") || github.url.contains("affects=serde_json%401.0.100&")
    );
}

#[test]
fn the_list_comes_first_and_denial_needs_nobody() {
    let lists: Lists = serde_saphyr::from_str(
        "{allow: [{ecosystem: npm, name: sigstore, reason: reviewed, since: '2024-03-15'}],
          deny: [{ecosystem: pypi, name: pypi-attestations, reason: not here}]}",
    )
    .unwrap();
    let root = public_good();
    let trust = Trust { root: Some(&root), npm_keys: &[] };
    for package in [PYPI, "pypi:pypi-attestations"] {
        let (denied, asked) = run_with(package, &lists, sources(), &pypi_services(), &trust);
        assert_eq!((denied.verdict, asked.len()), (Verdict::Denied, 0));
        assert_eq!(denied.reasons, ["the workspace's list: denied: not here"]);
        assert!(denied.vulnerability_counts.is_none(), "nobody was asked, which is not zero");
        assert_eq!(source(&denied, SourceName::Osv).status, Status::NotApplicable);
    }
    // Being allowed does not silence a database.
    let (allowed, _) = run_with(NPM, &lists, sources(), &npm_services(), &trust);
    assert_eq!(source(&allowed, SourceName::List).detail, "allowed since 2024-03-15: reviewed");
    assert_eq!(allowed.verdict, Verdict::Ok);
    let mut services = npm_services();
    services.put("https://osv.example", json!({"vulns": [osv("GHSA-1", "npm", "sigstore")]}));
    assert_eq!(run_with(NPM, &lists, sources(), &services, &trust).0.verdict, Verdict::Vulnerable);
    // Without a version only a denial can be answered.
    let unlisted = PackageRef::parse("npm:other").unwrap();
    assert!(Plan::new(unlisted, &lists, sources()).unwrap_err().to_string().contains("npm:other@VERSION"));
}

#[test]
fn whoever_does_not_answer_leaves_the_verdict_unknown() {
    let offline = run(PYPI, &Services(Vec::new()));
    assert_eq!(offline.verdict, Verdict::Unknown);
    assert!(offline.vulnerability_counts.is_none());
    for name in [
        SourceName::Registry,
        SourceName::History,
        SourceName::Attestations,
        SourceName::Osv,
        SourceName::GithubAdvisory,
    ] {
        assert_eq!(source(&offline, name).status, Status::Unavailable, "{name}");
    }
    let prefixes = [
        ("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", SourceName::Registry),
        ("https://pypi.example/pypi/pypi-attestations/json$", SourceName::History),
        ("https://pypi.example/integrity", SourceName::Attestations),
        ("https://osv.example", SourceName::Osv),
        ("https://github.example/advisories?type=reviewed", SourceName::GithubAdvisory),
        ("https://github.example/advisories?type=malware", SourceName::GithubAdvisory),
    ];
    for (url, name) in prefixes {
        let bad = [
            Answer::Nothing("timed out".to_owned()),
            Answer::Http { status: 500, body: Vec::new() },
            Answer::Http { status: 429, body: b"{}".to_vec() },
            Answer::Http { status: 302, body: Vec::new() },
            Answer::Http { status: 200, body: b"<html>sign in</html>".to_vec() },
            Answer::Http { status: 200, body: Vec::new() },
            Answer::Http { status: 200, body: b"7".to_vec() },
        ];
        for answer in bad {
            let mut services = pypi_services();
            services.answer(url, answer.clone());
            let report = run(PYPI, &services);
            assert_eq!(
                (report.verdict, source(&report, name).status),
                (Verdict::Unknown, Status::Unavailable),
                "{url} {answer:?}"
            );
            assert!(report.reasons.iter().any(|r| r.starts_with(&name.to_string())), "{:?}", report.reasons);
        }
    }
}

#[test]
fn nobody_configured_is_not_clean_either() {
    let root = public_good();
    let trust = Trust { root: Some(&root), npm_keys: &[] };
    let with = |change: fn(&mut Sources)| {
        let mut sources = sources();
        change(&mut sources);
        run_with(NPM, &Lists::default(), sources, &npm_services(), &trust).0
    };
    for (change, verdict) in [
        ((|_| {}) as fn(&mut Sources), Verdict::Ok),
        (|s| *s = Sources::default(), Verdict::Unknown),
        (|s| s.npm = None, Verdict::Unknown),
        (|s| (s.osv, s.github_advisory) = (None, None), Verdict::Unknown),
        (|s| s.osv = None, Verdict::Ok),
        (|s| s.github_advisory = None, Verdict::Ok),
        (|s| s.pypi = None, Verdict::Ok),
    ] {
        let report = with(change);
        assert_eq!(report.verdict, verdict, "{:?}", report.reasons);
    }
    let half = with(|s| s.osv = None);
    assert_eq!(source(&half, SourceName::Osv).status, Status::NotConfigured);
    assert!(half.not_checked.iter().any(|text| text.starts_with("OSV")));
    // Attestations that there is nothing to verify with are reported as there, not as good.
    let (blind, _) = run_with(NPM, &Lists::default(), sources(), &npm_services(), &Trust::default());
    assert_eq!(
        (blind.attestations[0].state, source(&blind, SourceName::Attestations).status),
        (State::Unverified, Status::NotConfigured)
    );
    assert!(source(&blind, SourceName::Attestations).detail.contains("supplied as a file"));
    // An answer that never comes.
    let mut plan = Plan::new(PackageRef::parse(NPM).unwrap(), &Lists::default(), sources()).unwrap();
    assert_eq!(plan.clone().report(&trust, NOW_MS).verdict, Verdict::Unknown);
    assert!(!plan.requests().is_empty());
    assert_eq!(plan.report(&trust, NOW_MS).verdict, Verdict::Unknown);
}

#[test]
fn a_release_that_the_registry_does_not_know_fails() {
    let mut services = pypi_services();
    services.status("https://pypi.example", 404);
    let report = run("pypi:requestz-invented==1.0.0", &services);
    assert_eq!(report.verdict, Verdict::Failed, "{:?}", report.reasons);
    assert!(report.reasons[0].contains("knows no pypi:requestz-invented==1.0.0"));
    // An answer about something else is no answer.
    for (name, version) in [("other", "0.0.19"), ("pypi-attestations", "0.0.20"), ("../x", "0.0.19")] {
        let mut services = pypi_services();
        let release = pypi_release(name, version, &[(GITHUB_FILE, GITHUB_SHA256)]);
        services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
        assert_eq!(run(PYPI, &services).verdict, Verdict::Unknown, "{name} {version}");
    }
    // Names of files become addresses, so that not every one is taken.
    let release = pypi_release("pypi-attestations", "0.0.19", &[("../../simple", GITHUB_SHA256)]);
    services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
    services.put("https://pypi.example/pypi/pypi-attestations/json$", pypi_history("pypi-attestations"));
    assert_eq!(run(PYPI, &services).verdict, Verdict::Unknown);
}

#[test]
fn attestations_of_pypi_hold_for_their_file_and_publisher_alone() {
    let provenance = || json_data("pypi-github.provenance.json");
    let with = |file: &str, sha256: &str, provenance: Value| {
        let mut services = pypi_services();
        let release = pypi_release("pypi-attestations", "0.0.19", &[(file, sha256)]);
        services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
        services.put(&provenance_url(file), provenance);
        run(PYPI, &services)
    };
    let publisher = |name: &str, value: Value| {
        let mut changed = provenance();
        changed["attestation_bundles"][0]["publisher"][name] = value;
        changed
    };
    let attestation = |path: &str, change: fn(&mut Value)| {
        let mut changed = provenance();
        change(changed["attestation_bundles"][0]["attestations"][0].pointer_mut(path).unwrap());
        changed
    };
    let flip = |value: &mut Value| {
        let text = value.as_str().unwrap();
        let at = text.len() / 2;
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        *value = format!("{}{other}{}", &text[..at], &text[at + 1..]).into();
    };
    let other_sha256 = "00".repeat(32);
    for (file, sha256, provenance, expected) in [
        ("pypi_attestations-0.0.18.tar.gz", GITHUB_SHA256, provenance(), "it is about"),
        ("pypi_attestations-0.0.19-py3-none-any.whl", GITHUB_SHA256, provenance(), "it is about"),
        (GITHUB_FILE, other_sha256.as_str(), provenance(), "artifact_mismatch"),
        (GITHUB_FILE, GITHUB_SHA256, publisher("repository", "evil/pypi-attestations".into()), "repository"),
        (GITHUB_FILE, GITHUB_SHA256, publisher("repository", "trailofbits/pypi".into()), "repository"),
        (GITHUB_FILE, GITHUB_SHA256, publisher("workflow", "other.yml".into()), "workflow"),
        (GITHUB_FILE, GITHUB_SHA256, publisher("workflow", "elease.yml".into()), "workflow"),
        (GITHUB_FILE, GITHUB_SHA256, publisher("workflow", "release.yml@refs".into()), "workflow"),
        (
            GITHUB_FILE,
            GITHUB_SHA256,
            {
                let mut changed = publisher("kind", "GitLab".into());
                changed["attestation_bundles"][0]["publisher"]["workflow_filepath"] = ".gitlab-ci.yml".into();
                changed
            },
            "issuer_mismatch",
        ),
        (GITHUB_FILE, GITHUB_SHA256, attestation("/envelope/signature", flip), "signature_wrong"),
        (GITHUB_FILE, GITHUB_SHA256, attestation("/verification_material/certificate", flip), "certificate"),
        (
            GITHUB_FILE,
            GITHUB_SHA256,
            attestation("/verification_material/transparency_entries", |list| *list = json!([])),
            "no_trusted_time",
        ),
        (
            GITHUB_FILE,
            GITHUB_SHA256,
            attestation("/verification_material/transparency_entries/0", |e| e["inclusionProof"] = Value::Null),
            "inclusion_missing",
        ),
    ] {
        let report = with(file, sha256, provenance);
        let found = source(&report, SourceName::Attestations);
        assert_eq!((report.verdict, found.status), (Verdict::Failed, Status::Failed), "{expected}: {report:#?}");
        assert!(found.detail.contains(expected), "{expected}: {}", found.detail);
    }
    // Harmless doubles.
    let upper = publisher("repository", "TrailOfBits/PyPI-Attestations".into());
    let staged = publisher("environment", "release".into());
    for provenance in [provenance(), upper, staged] {
        assert_eq!(with(GITHUB_FILE, GITHUB_SHA256, provenance).verdict, Verdict::Ok);
    }
    // What cannot be read is neither good nor bad.
    let newer = attestation("/version", |version| *version = json!(2));
    let kind = publisher("kind", "Sourcehut".into());
    let none = json!({"version": 1, "attestation_bundles": []});
    for provenance in [newer, kind, none] {
        assert_eq!(with(GITHUB_FILE, GITHUB_SHA256, provenance).verdict, Verdict::Unknown);
    }
}

#[test]
fn publishers_of_each_kind() {
    let gitlab = json!({"version": 1, "attestation_bundles": [{
        "publisher": {"kind": "GitLab", "repository": "facutuesca/gitlab-oidc-project", "workflow_filepath": ".gitlab-ci.yml"},
        "attestations": [json_data("pypi-gitlab.attestation.json")]}]});
    let cases = [
        (
            "gitlab-oidc-project",
            "0.0.3",
            "gitlab_oidc_project-0.0.3.tar.gz",
            "c1ca9b0d85df1606451098233018534497bf584362e10e4a8c21dfaea92c02a8",
            gitlab,
            "workflow_filepath",
        ),
        (
            "gcb-attestation-test",
            "0.0.0",
            "gcb_attestation_test-0.0.0.tar.gz",
            "461317362419124b6012e855423a9078d6de8aed3e74fa78cc74d669b23dc6cf",
            json_data("pypi-google.provenance.json"),
            "email",
        ),
        (
            "circleci-sign-publish-example",
            "0.0.1.dev137",
            "circleci_sign_publish_example-0.0.1.dev137-py3-none-any.whl",
            "8cb34da1e27336f11a2c43f3f9c7433bd76f24f470c904724f06ad7f131d9e9f",
            json_data("pypi-circleci.provenance.json"),
            "pipeline_definition_id",
        ),
    ];
    for (name, version, file, sha256, provenance, part) in cases {
        let with = |provenance: &Value| {
            let mut services = Services::new();
            services.put(
                &format!("https://pypi.example/pypi/{name}/{version}/json$"),
                pypi_release(name, version, &[(file, sha256)]),
            );
            services.put(&format!("https://pypi.example/pypi/{name}/json$"), pypi_history(name));
            services.put("https://pypi.example/integrity", provenance.clone());
            run(&format!("pypi:{name}=={version}"), &services)
        };
        let report = with(&provenance);
        assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
        let mut other = provenance;
        other["attestation_bundles"][0]["publisher"][part] = "x@example.com".into();
        assert_eq!(with(&other).verdict, Verdict::Failed, "{name}");
    }
}

#[test]
fn the_path_of_a_pipeline_is_held_to_its_case() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    // A real certificate with another file's name of the same length. Its signature is wrong then; what counts here is whether
    // the workflow is wrong too.
    let mut attestation = json_data("pypi-gitlab.attestation.json");
    let certificate = attestation["verification_material"]["certificate"].as_str().unwrap();
    let mut der = STANDARD.decode(certificate).unwrap();
    let (from, to) = (b".gitlab-ci.yml", b"CI/a-ci-ab.yml");
    for at in 0..der.len() - from.len() {
        if der[at..].starts_with(from) {
            der[at..at + to.len()].copy_from_slice(to);
        }
    }
    attestation["verification_material"]["certificate"] = STANDARD.encode(der).into();
    let (name, file) = ("gitlab-oidc-project", "gitlab_oidc_project-0.0.3.tar.gz");
    let sha256 = "c1ca9b0d85df1606451098233018534497bf584362e10e4a8c21dfaea92c02a8";
    let wrong = |repository: &str, path: &str| {
        let publisher = json!({"kind": "GitLab", "repository": repository, "workflow_filepath": path});
        let bundles = json!([{"publisher": publisher, "attestations": [attestation.clone()]}]);
        let mut services = Services::new();
        let release = pypi_release(name, "0.0.3", &[(file, sha256)]);
        services.put(&format!("https://pypi.example/pypi/{name}/0.0.3/json$"), release);
        services.put(&format!("https://pypi.example/pypi/{name}/json$"), pypi_history(name));
        services.put("https://pypi.example/integrity", json!({"version": 1, "attestation_bundles": bundles}));
        let report = run(&format!("pypi:{name}==0.0.3"), &services);
        assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
        report.attestations[0].problems.iter().any(|problem| problem.contains("by the workflow"))
    };
    for (repository, path, expected) in [
        ("facutuesca/gitlab-oidc-project", "CI/a-ci-ab.yml", false),
        ("Facutuesca/GitLab-OIDC-project", "CI/a-ci-ab.yml", false),
        ("facutuesca/gitlab-oidc-project", "ci/a-ci-ab.yml", true),
        ("facutuesca/gitlab-oidc-project", "CI/A-ci-ab.yml", true),
        ("facutuesca/gitlab-oidc-project", ".gitlab-ci.yml", true),
    ] {
        assert_eq!(wrong(repository, path), expected, "{repository} {path}");
    }
}

#[test]
fn files_without_attestations_are_a_fact() {
    let wheel = "pypi_attestations-0.0.19-py3-none-any.whl";
    let release = pypi_release("pypi-attestations", "0.0.19", &[(GITHUB_FILE, GITHUB_SHA256), (wheel, GITHUB_SHA256)]);
    let mut services = pypi_services();
    services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
    services.status(&provenance_url(wheel), 404);
    let partly = run(PYPI, &services);
    assert_eq!(
        (partly.verdict, source(&partly, SourceName::Attestations).status),
        (Verdict::Ok, Status::NotApplicable)
    );
    assert_eq!(partly.warnings[0].code, "partly_attested");
    services.status(&provenance_url(GITHUB_FILE), 404);
    let none = run(PYPI, &services);
    assert_eq!((none.verdict, source(&none, SourceName::Attestations).status), (Verdict::Ok, Status::NotApplicable));
    assert!(none.warnings.is_empty());
    // Where npm's metadata says that there are attestations, their absence is a silence.
    let mut services = npm_services();
    services.status("https://npm.example/-/", 404);
    assert_eq!(run(NPM, &services).verdict, Verdict::Unknown);
    let mut release = npm_release("2.0.0", NPM_SHA512);
    release["dist"]["attestations"] = Value::Null;
    services.put("https://npm.example/sigstore/2.0.0$", release);
    assert_eq!(run(NPM, &services).verdict, Verdict::Ok);
}

#[test]
fn provenance_of_npm_holds_for_its_release_and_repository_alone() {
    let bundle = || json_data("npm-provenance.sigstore.json");
    let with = |release: Value, kind: &str, bundle: Value| {
        let mut services = npm_services();
        services.put("https://npm.example/sigstore/2.0.0$", release);
        let answer = json!({"attestations": [{"predicateType": kind, "bundle": bundle}]});
        services.put("https://npm.example/-/npm/v1/attestations/", answer);
        run(NPM, &services)
    };
    let release = || npm_release("2.0.0", NPM_SHA512);
    let changed = |path: &str, value: Value| {
        let mut release = release();
        *release.pointer_mut(path).unwrap() = value;
        release
    };
    const SLSA: &str = "https://slsa.dev/provenance/v1";
    let repository = |url: &str| changed("/repository/url", url.into());
    for (release, kind, bundle, expected) in [
        (
            changed("/dist/integrity", format!("sha512-{NPM_PUBLISH_SHA512}").into()),
            SLSA,
            bundle(),
            "artifact_mismatch",
        ),
        (changed("/dist/integrity", "sha1-x".into()), SLSA, bundle(), "no SHA-512"),
        (repository("git+https://github.com/evil/sigstore-js.git"), SLSA, bundle(), "declares"),
        (repository("https://gitlab.com/sigstore/sigstore-js"), SLSA, bundle(), "issuer_mismatch"),
        (repository("https://git.example.com/sigstore/sigstore-js"), SLSA, bundle(), "declares"),
        (changed("/repository", Value::Null), SLSA, bundle(), "declares no repository"),
        (release(), "https://slsa.dev/provenance/v0.2", bundle(), "another kind of predicate"),
        (release(), SLSA, json!({"mediaType": "x"}), "not read"),
        (
            release(),
            SLSA,
            {
                let mut other = bundle();
                let sig =
                    bundle()["dsseEnvelope"]["signatures"][0]["sig"].as_str().unwrap().replacen("FWrP", "FWrQ", 1);
                other["dsseEnvelope"]["signatures"][0]["sig"] = sig.into();
                other
            },
            "signature_wrong",
        ),
    ] {
        let report = with(release, kind, bundle);
        let found = source(&report, SourceName::Attestations);
        assert_eq!(report.verdict, Verdict::Failed, "{expected}: {report:#?}");
        assert!(found.detail.contains(expected), "{expected}: {}", found.detail);
    }
    let shorthand = changed("/repository", "github:sigstore/sigstore-js".into());
    assert_eq!(with(shorthand, SLSA, bundle()).verdict, Verdict::Ok);
    // Provenance of one version, offered for another of the same bytes.
    let mut services = Services::new();
    services.put("https://npm.example/sigstore/2.0.1$", npm_release("2.0.1", NPM_SHA512));
    services.put("https://npm.example/sigstore$", npm_history());
    services.put("https://npm.example/-/", json!({"attestations": [{"predicateType": SLSA, "bundle": bundle()}]}));
    let report = run("npm:sigstore@2.0.1", &services);
    assert_eq!(report.verdict, Verdict::Failed);
    assert!(source(&report, SourceName::Attestations).detail.contains("not \"pkg:npm/sigstore@2.0.1\""));
}

#[test]
fn npms_own_attestation_is_verified_with_its_keys_alone() {
    let root = public_good();
    let keys = |id: &str, expires: Value| {
        let keys = json!({"keys": [{"expires": expires, "keyid": id, "keytype": "ecdsa-sha2-nistp256",
            "scheme": "ecdsa-sha2-nistp256", "key": NPM_KEY}]});
        RegistryKey::parse_all(keys.to_string().as_bytes()).unwrap()
    };
    const ID: &str = "SHA256:jl3bwswu80PjjokCgh0o2w5c2U4LhQAE57gj9cz1kzA";
    let run = |keys: &[RegistryKey], version: &str| {
        let mut services = Services::new();
        services.put("https://npm.example/sigstore/", npm_release(version, NPM_PUBLISH_SHA512));
        services.put("https://npm.example/sigstore$", npm_history());
        let publish = "https://github.com/npm/attestation/tree/main/specs/publish/v0.1";
        let bundle = json_data("npm-publish.sigstore.json");
        services.put("https://npm.example/-/", json!({"attestations": [{"predicateType": publish, "bundle": bundle}]}));
        let trust = Trust { root: Some(&root), npm_keys: keys };
        run_with(&format!("npm:sigstore@{version}"), &Lists::default(), sources(), &services, &trust).0
    };
    for (keys, version, state, status) in [
        (vec![], "1.3.0", State::Unverified, Status::NotConfigured),
        (keys("SHA256:other", Value::Null), "1.3.0", State::Unverified, Status::NotConfigured),
        // It shows that the registry published it, not who built it.
        (keys(ID, Value::Null), "1.3.0", State::Verified, Status::NotApplicable),
        (keys(ID, "2025-01-29T00:00:00.000Z".into()), "1.3.0", State::Verified, Status::NotApplicable),
        (keys(ID, "2023-04-18T00:00:00.000Z".into()), "1.3.0", State::Failed, Status::Failed),
        (keys(ID, Value::Null), "1.3.1", State::Failed, Status::Failed),
    ] {
        let report = run(&keys, version);
        assert_eq!(report.attestations[0].state, state, "{:#?}", report.attestations);
        assert_eq!(source(&report, SourceName::Attestations).status, status);
    }
}

fn osv(id: &str, ecosystem: &str, name: &str) -> Value {
    json!({"schema_version": "1.6.0", "id": id, "summary": "It leaks", "aliases": [], "modified": "2024-01-01T00:00:00Z",
        "affected": [{"package": {"ecosystem": ecosystem, "name": name, "purl": "pkg:x/y"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.31.0"}]}]}]})
}

fn ghsa(id: &str, name: &str) -> Value {
    json!({"ghsa_id": id, "cve_id": null, "summary": "It leaks", "type": "reviewed", "severity": "medium", "withdrawn_at": null,
        "identifiers": [{"type": "GHSA", "value": id}],
        "vulnerabilities": [{"package": {"ecosystem": "pip", "name": name}, "vulnerable_version_range": ">= 0, < 2.31.0",
            "first_patched_version": "2.31.0", "vulnerable_functions": []}],
        "cvss": {"vector_string": null, "score": null}})
}

#[test]
fn what_databases_know_is_merged_and_counted() {
    let mut first = osv("GHSA-j8r2-6x86-q33q", "PyPI", "pypi-attestations");
    first["aliases"] = json!(["CVE-2023-32681", "PYSEC-2023-74"]);
    first["severity"] = json!([{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:C/C:H/I:N/A:N"}]);
    first["database_specific"] = json!({"severity": "MODERATE"});
    let mut second = osv("PYSEC-2023-74", "PyPI", "PyPI.Attestations");
    second["summary"] = Value::Null;
    second["details"] = "Longer words".into();
    let mut same = ghsa("GHSA-j8r2-6x86-q33q", "PyPI-Attestations");
    same["cve_id"] = "CVE-2023-32681".into();
    let mut third = ghsa("GHSA-aaaa-bbbb-cccc", "pypi-attestations");
    third["severity"] = "critical".into();
    third["vulnerabilities"][0]["first_patched_version"] = json!({"identifier": "3.0"});
    let mut services = pypi_services();
    services.put("https://osv.example", json!({"vulns": [second, first]}));
    services.put("https://github.example/advisories?type=reviewed", json!([same, third]));
    let report = run(PYPI, &services);
    assert_eq!(report.verdict, Verdict::Vulnerable);
    let counts = report.vulnerability_counts.unwrap();
    assert_eq!((counts.critical, counts.medium, counts.total()), (1, 1, 2));
    let [worst, merged] = report.vulnerabilities.as_slice() else { panic!("{:#?}", report.vulnerabilities) };
    assert_eq!((worst.id.as_str(), worst.fixed.as_slice()), ("GHSA-aaaa-bbbb-cccc", &["3.0".to_owned()][..]));
    assert_eq!(merged.id, "CVE-2023-32681");
    assert_eq!(merged.aliases, ["GHSA-j8r2-6x86-q33q", "PYSEC-2023-74"]);
    assert_eq!(merged.sources, [SourceName::Osv, SourceName::GithubAdvisory]);
    assert_eq!((merged.fixed.as_slice(), merged.vectors.len()), (&["2.31.0".to_owned()][..], 1));
    assert!(merged.affected.contains(&">=0,<2.31.0".to_owned()), "{:?}", merged.affected);
    assert_eq!(
        report.reasons[0],
        "2 vulnerabilities are known, of which GHSA-aaaa-bbbb-cccc has severity critical, fixed in 3.0"
    );
}

#[test]
fn what_was_withdrawn_or_is_about_others_does_not_count() {
    let with = |osv: Value, github: Value| {
        let mut services = pypi_services();
        services.put("https://osv.example", json!({"vulns": [osv]}));
        services.put("https://github.example/advisories?type=reviewed", json!([github]));
        run(PYPI, &services)
    };
    let ours = || osv("PYSEC-1", "PyPI", "pypi-attestations");
    let other = || osv("PYSEC-2", "PyPI", "requests");
    let far = || ghsa("GHSA-2", "requests");
    assert_eq!(with(ours(), far()).verdict, Verdict::Vulnerable);
    assert_eq!(with(other(), ghsa("GHSA-1", "pypi-attestations")).verdict, Verdict::Vulnerable);
    let elsewhere = with(osv("PYSEC-2", "npm", "pypi-attestations"), far());
    assert_eq!(elsewhere.verdict, Verdict::Ok);
    assert_eq!(source(&elsewhere, SourceName::Osv).facts["about_other_packages"], 1);
    let mut withdrawn = ours();
    withdrawn["withdrawn"] = "2024-01-01T00:00:00Z".into();
    let mut taken_back = ghsa("GHSA-1", "pypi-attestations");
    taken_back["withdrawn_at"] = "2024-01-01T00:00:00Z".into();
    let report = with(withdrawn, taken_back);
    assert_eq!((report.verdict, report.vulnerabilities.len()), (Verdict::Ok, 0));
    assert_eq!(source(&report, SourceName::GithubAdvisory).facts["withdrawn"], 1);
    // That nobody maintains it is to be known, and no vulnerability.
    let mut unmaintained = osv("RUSTSEC-2024-0001", "PyPI", "pypi-attestations");
    unmaintained["affected"][0]["database_specific"] = json!({"informational": "unmaintained"});
    let report = with(unmaintained, far());
    assert_eq!((report.verdict, report.vulnerability_counts.unwrap().informational), (Verdict::Ok, 1));
    assert_eq!(report.warnings[0].code, "informational");
}

#[test]
fn malware_is_asked_for_and_comes_first() {
    let mut services = pypi_services();
    let mut malware = ghsa("GHSA-mmmm-mmmm-mmmm", "pypi-attestations");
    malware["type"] = "malware".into();
    malware["severity"] = "low".into();
    services.put("https://github.example/advisories?type=malware", json!([malware]));
    let report = run(PYPI, &services);
    assert_eq!(report.verdict, Verdict::Vulnerable);
    assert!(report.vulnerabilities[0].malware && report.vulnerability_counts.unwrap().critical == 1);
    assert!(report.reasons[0].ends_with("GHSA-mmmm-mmmm-mmmm is malware"), "{}", report.reasons[0]);
    let mut services = pypi_services();
    services.put("https://osv.example", json!({"vulns": [osv("MAL-2024-1", "PyPI", "pypi-attestations")]}));
    assert!(run(PYPI, &services).vulnerabilities[0].malware);
}

#[test]
fn long_answers_are_asked_for_to_their_end_or_refused() {
    let root = public_good();
    let trust = Trust { root: Some(&root), npm_keys: &[] };
    let page = |token: Value, id: &str| {
        let body = json!({"vulns": [osv(id, "PyPI", "pypi-attestations")], "next_page_token": token});
        Answer::Http { status: 200, body: body.to_string().into_bytes() }
    };
    let run = |pages: usize| {
        let services = pypi_services();
        let mut plan = Plan::new(PackageRef::parse(PYPI).unwrap(), &Lists::default(), sources()).unwrap();
        let mut seen = 0;
        loop {
            let requests = plan.requests();
            if requests.is_empty() {
                return (plan.report(&trust, NOW_MS), seen);
            }
            for request in requests {
                let answer = if request.source == SourceName::Osv {
                    let body: Value = serde_json::from_slice(request.body.as_ref().unwrap()).unwrap();
                    assert_eq!(body.get("page_token").is_some(), seen > 0);
                    seen += 1;
                    let token = if seen == pages { Value::Null } else { format!("page {seen}").into() };
                    page(token, &format!("PYSEC-{seen}"))
                } else {
                    services.ask(&request)
                };
                plan.answer(request.number, &answer);
            }
        }
    };
    let (three, asked) = run(3);
    assert_eq!((three.vulnerabilities.len(), asked, source(&three, SourceName::Osv).status), (3, 3, Status::Ok));
    let (endless, asked) = run(usize::MAX);
    assert_eq!((asked, source(&endless, SourceName::Osv).status), (8, Status::Unavailable));
    let many: Vec<Value> = (0..100).map(|i| ghsa(&format!("GHSA-{i}"), "pypi-attestations")).collect();
    let mut services = pypi_services();
    services.put("https://github.example/advisories?type=reviewed", json!(many[..99]));
    let report = run_with(PYPI, &Lists::default(), sources(), &services, &trust).0;
    assert_eq!((report.vulnerabilities.len(), report.verdict), (99, Verdict::Vulnerable));
    services.put("https://github.example/advisories?type=reviewed", json!(many));
    let report = run_with(PYPI, &Lists::default(), sources(), &services, &trust).0;
    assert_eq!(source(&report, SourceName::GithubAdvisory).status, Status::Unavailable);
}

#[test]
fn a_database_that_says_more_than_is_read_did_not_answer() {
    let run = |each: usize| {
        let services = pypi_services();
        let mut plan = Plan::new(PackageRef::parse(PYPI).unwrap(), &Lists::default(), sources()).unwrap();
        let mut pages = 0;
        loop {
            let requests = plan.requests();
            if requests.is_empty() {
                return plan.report(&Trust::default(), NOW_MS);
            }
            for request in requests {
                let answer = if request.source == SourceName::Osv {
                    let ids = (pages * each..(pages + 1) * each).map(|i| format!("PYSEC-{i}"));
                    let list: Vec<Value> = ids.map(|id| osv(&id, "PyPI", "pypi-attestations")).collect();
                    pages += 1;
                    let token = if pages == 2 { Value::Null } else { "more".into() };
                    let body = json!({"vulns": list, "next_page_token": token});
                    Answer::Http { status: 200, body: body.to_string().into_bytes() }
                } else {
                    services.ask(&request)
                };
                plan.answer(request.number, &answer);
            }
        }
    };
    let most = run(500);
    assert_eq!(source(&most, SourceName::Osv).status, Status::Ok);
    assert_eq!(most.vulnerability_counts.unwrap().total(), 1000);
    let more = run(501);
    assert_eq!(source(&more, SourceName::Osv).status, Status::Unavailable, "two answers, each within the bound");
}

#[test]
fn warnings_decide_nothing() {
    let mut release = npm_release("2.0.0", NPM_SHA512);
    release["deprecated"] = "use another\u{202e}".into();
    let mut services = npm_services();
    services.put("https://npm.example/sigstore/2.0.0$", release);
    let deprecated = run(NPM, &services);
    assert_eq!((deprecated.verdict, deprecated.warnings[0].code), (Verdict::Ok, "deprecated"));
    assert_eq!(deprecated.reputation.deprecated.as_deref(), Some("use another "));
    let mut yanked = pypi_release("pypi-attestations", "0.0.19", &[(GITHUB_FILE, GITHUB_SHA256)]);
    yanked["info"]["yanked"] = true.into();
    yanked["info"]["yanked_reason"] = "broken".into();
    let mut services = pypi_services();
    services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", yanked);
    let yanked = run(PYPI, &services);
    assert_eq!((yanked.verdict, yanked.warnings[0].code), (Verdict::Ok, "yanked"));
    let lookalike = run("pypi:reqeusts==1.0", &Services::new());
    assert_eq!(lookalike.warnings[0].code, "lookalike");
    assert!(
        lookalike.warnings[0].detail.contains("\"reqeusts\"") && lookalike.warnings[0].detail.contains("\"requests\"")
    );
}

#[test]
fn an_attestation_logged_as_the_second_version_of_rekor_logs_statements() {
    use countersign_trust::bundle::{Content, Material};
    use countersign_trust::certificate::Identity;
    use countersign_trust::sign::{Payload, Signatory, prepare};
    let mut world = crate::world::World::new(crate::signing::NOW_MS);
    let digest = countersign_proof::digest::Digest::of(b"wheel");
    let file = "pypi_attestations-0.0.19-py3-none-any.whl";
    let publish = "https://docs.pypi.org/attestations/publish/v1";
    let attest = |world: &mut crate::world::World, name: &str, predicate: &str, mail: &str, change: fn(&mut Value)| {
        let statement =
            countersign_trust::dsse::Statement::about(name, &digest, predicate, Value::Null).to_payload().unwrap();
        let identity = Identity::mail(mail).unwrap();
        let who = Signatory { identity: &identity, issuer: "https://accounts.google.com" };
        let seed = world.seed();
        let unlogged = prepare(&world.authority, who, &Payload::Statement(&statement), &seed, world.now_ms).unwrap();
        let mut bundle = world.log.finish(unlogged);
        let (Content::Dsse(envelope), Material::Certificate(certificate)) = (&bundle.content, &bundle.material) else {
            panic!()
        };
        let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let payload = base64(&envelope.payload);
        let signature = base64(&envelope.signature);
        let mut leaf = json!({"apiVersion": "0.0.2", "kind": "dsse", "spec": {"dsseV002": {
            "payloadHash": {"algorithm": "SHA2_256", "digest": countersign_proof::digest::Digest::of(&envelope.payload).to_base64()},
            "signatures": [{"content": signature.clone(), "verifier": {"keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "x509Certificate": {"rawBytes": base64(certificate)}}}]}}});
        change(&mut leaf);
        let certificate = base64(certificate);
        world.log.log_again(&mut bundle, leaf.to_string().as_bytes());
        let version = leaf["apiVersion"].as_str().unwrap().to_owned();
        (bundle.entries[0].kind, bundle.entries[0].version) = ("dsse".to_owned(), version);
        let entry: Value = serde_json::from_slice(&bundle.entries[0].to_json()).unwrap();
        let stamps: Vec<String> = bundle.timestamps.iter().map(|stamp| base64(stamp)).collect();
        json!({"version": 1, "envelope": {"statement": payload, "signature": signature}, "verification_material":
            {"certificate": certificate, "transparency_entries": [entry], "timestamps": stamps}})
    };
    let run = |world: &crate::world::World, attestation: Value| {
        let mut services = pypi_services();
        let release = pypi_release("pypi-attestations", "0.0.19", &[(file, &digest.hex())]);
        services.put("https://pypi.example/pypi/pypi-attestations/0.0.19/json$", release);
        let publisher = json!({"kind": "Google", "email": "ann@example.com"});
        let provenance =
            json!({"version": 1, "attestation_bundles": [{"publisher": publisher, "attestations": [attestation]}]});
        services.put(&provenance_url(file), provenance);
        let trust = Trust { root: Some(&world.root), npm_keys: &[] };
        run_with(PYPI, &Lists::default(), sources(), &services, &trust).0
    };
    for (name, predicate, mail, expected) in [
        (file, publish, "ann@example.com", None),
        ("PyPI-attestations-0.0.19-py3-none-any.whl", publish, "ann@example.com", Some("it is about")),
        ("PyPI.attestations-0.0.19-py3-none-any.whl", publish, "ann@example.com", None),
        (file, "https://slsa.dev/provenance/v1", "ann@example.com", None),
        (file, "https://example.com/else", "ann@example.com", Some("it states something else")),
        (file, publish, "eve@example.com", Some("identity_mismatch")),
    ] {
        let attestation = attest(&mut world, name, predicate, mail, |_| {});
        let report = run(&world, attestation);
        let detail = &source(&report, SourceName::Attestations).detail;
        match expected {
            None => assert_eq!(report.verdict, Verdict::Ok, "{detail}"),
            Some(expected) => assert!(report.verdict == Verdict::Failed && detail.contains(expected), "{detail}"),
        }
    }
    let mut with = |change: fn(&mut Value)| {
        let attestation = attest(&mut world, file, publish, "ann@example.com", change);
        run(&world, attestation)
    };
    for change in [
        (|leaf| leaf["spec"]["dsseV002"]["payloadHash"]["digest"] = "AAAA".into()) as fn(&mut Value),
        |leaf| leaf["spec"]["dsseV002"]["signatures"][0]["content"] = "AAAA".into(),
        |leaf| leaf["spec"]["dsseV002"]["signatures"][0]["verifier"]["x509Certificate"]["rawBytes"] = "AAAA".into(),
    ] {
        let report = with(change);
        let detail = &source(&report, SourceName::Attestations).detail;
        assert!(report.verdict == Verdict::Failed && detail.contains("log_entry_mismatch"), "{detail}");
    }
    // An entry of a kind that is not read yet is no lie, and no proof either.
    let newer = with(|leaf| leaf["apiVersion"] = "0.0.9".into());
    assert_eq!((newer.verdict, newer.attestations[0].state), (Verdict::Unknown, State::Unverified), "{newer:#?}");
}
