//! Who a registry says may publish a project, and whether a certificate is theirs.
//!
//! A registry's Trusted Publisher names the repository and workflow that publish. The certificate names them in Fulcio's
//! extensions; its subject alternative name may be of another workflow, which the publisher's called.

use serde_json::Value;

use super::plain;
use super::source::Trouble;
use crate::certificate::{Certificate, Claim};
use crate::verify::{Expected, Pattern};

const GITHUB: &str = "https://github.com/";
const GITHUB_ISSUER: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.com/";
const GITLAB_ISSUER: &str = "https://gitlab.com";
const GOOGLE_ISSUER: &str = "https://accounts.google.com";
const CIRCLECI_ISSUER: &str = "https://oidc.circleci.com";
/// The longest part of a publisher, in bytes.
const MAX_PART: usize = 255;

/// A publisher, as PyPI declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publisher {
    /// A workflow of GitHub Actions.
    GitHub {
        /// `OWNER/NAME`.
        repository: String,
        /// Name of the file in `.github/workflows`.
        workflow: String,
    },
    /// A pipeline of GitLab.com.
    GitLab {
        /// `GROUP/…/NAME`.
        repository: String,
        /// Path of the file in the repository.
        workflow_filepath: String,
    },
    /// A service account of Google Cloud.
    Google {
        /// Its address.
        email: String,
    },
    /// A pipeline of CircleCI.
    CircleCi {
        /// UUID.
        project_id: String,
        /// UUID.
        pipeline_definition_id: String,
    },
    /// Of a kind that is not known here, so that nothing can be compared with it.
    Other(String),
}

impl Publisher {
    pub(super) fn parse(value: &Value) -> Result<Self, Trouble> {
        let part = |name: &str| {
            let text = value.get(name).and_then(Value::as_str);
            let plain =
                |text: &&str| (1..=MAX_PART).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
            let missing = || Trouble::unreadable(&format!("the publisher's {name} is missing, or none"));
            text.filter(plain).map(str::to_owned).ok_or_else(missing)
        };
        Ok(match part("kind")?.as_str() {
            "GitHub" => Self::GitHub { repository: part("repository")?, workflow: part("workflow")? },
            "GitLab" => Self::GitLab { repository: part("repository")?, workflow_filepath: part("workflow_filepath")? },
            "Google" => Self::Google { email: part("email")? },
            "CircleCI" => Self::CircleCi {
                project_id: part("project_id")?,
                pipeline_definition_id: part("pipeline_definition_id")?,
            },
            other => Self::Other(plain(other, 64)),
        })
    }

    /// Whom a verifier of its signatures expects; none where that is not known.
    pub(super) fn expected(&self) -> Option<Expected> {
        let certificate = |identity: Pattern, issuer: &str| {
            let issuer = Pattern::Exact(issuer.to_owned());
            Some(Expected::Certificate { identity, issuer })
        };
        let any = || Pattern::Glob("https://**".to_owned());
        match self {
            Self::GitHub { .. } => certificate(any(), GITHUB_ISSUER),
            Self::GitLab { .. } => certificate(any(), GITLAB_ISSUER),
            Self::Google { email } => certificate(Pattern::Exact(email.clone()), GOOGLE_ISSUER),
            Self::CircleCi { .. } => certificate(any(), CIRCLECI_ISSUER),
            Self::Other(_) => None,
        }
    }

    /// Whether a certificate's extensions are those of this publisher.
    pub(super) fn check(&self, certificate: &Certificate) -> Result<(), String> {
        match self {
            Self::GitHub { repository, workflow } => {
                let source = format!("{GITHUB}{repository}");
                check_source(certificate, &source)?;
                check_workflow(certificate, &source, &format!("/.github/workflows/{workflow}"))
            }
            Self::GitLab { repository, workflow_filepath } => {
                let source = format!("{GITLAB}{repository}");
                check_source(certificate, &source)?;
                check_workflow(certificate, &source, &format!("//{workflow_filepath}"))
            }
            // The mail address was compared as the identity.
            Self::Google { .. } => Ok(()),
            Self::CircleCi { project_id, pipeline_definition_id } => {
                let path = format!("/api/v2/projects/{project_id}/pipeline-definitions/{pipeline_definition_id}");
                let expected = format!("https://circleci.com{path}");
                let found = claim(certificate, Claim::BuildSignerUri)?;
                if found == expected {
                    return Ok(());
                }
                Err(format!("it was signed by {found:?}, and the publisher is {expected:?}"))
            }
            Self::Other(kind) => Err(format!("publishers of the kind {kind:?} are not known here")),
        }
    }
}

fn claim(certificate: &Certificate, claim: Claim) -> Result<String, String> {
    let found = certificate.claim(claim).map_err(|error| error.to_string())?;
    found.map(|text| plain(&text, 512)).ok_or_else(|| format!("the certificate does not say its {claim:?}"))
}

/// The repository that was built is the one that is expected. Hosts of repositories take no notice of case.
pub(super) fn check_source(certificate: &Certificate, expected: &str) -> Result<(), String> {
    let found = claim(certificate, Claim::SourceRepositoryUri)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(format!("it was signed for the repository {found:?}, and {expected:?} is expected"))
}

/// The workflow at the top is the one that is expected: a file in a repository. Its URI ends with a branch, tag or commit, which
/// nobody declares: it has to be the one that the certificate itself names, so that no part of a file's name is taken for it.
fn check_workflow(certificate: &Certificate, repository: &str, file: &str) -> Result<(), String> {
    let found = claim(certificate, Claim::BuildConfigUri)?;
    let ends = [Claim::SourceRepositoryRef, Claim::SourceRepositoryDigest];
    let mut ends = ends.map(|end| claim(certificate, end)).into_iter().flatten();
    if ends.any(|end| is_workflow(&found, repository, file, &end)) {
        return Ok(());
    }
    let expected = format!("{repository}{file}");
    Err(format!("it was signed by the workflow {found:?}, and {expected:?} is expected"))
}

/// Hosts of repositories take no notice of case; in a repository, each file's whole path is held to its case.
fn is_workflow(found: &str, repository: &str, file: &str, end: &str) -> bool {
    let parts = found.split_at_checked(repository.len());
    parts.is_some_and(|(start, rest)| start.eq_ignore_ascii_case(repository) && rest == format!("{file}@{end}"))
}

/// The address of a repository, as certificates spell it, from one of the many spellings in packages' metadata.
pub(super) fn repository_url(text: &str) -> Option<String> {
    let text = text.strip_prefix("git+").unwrap_or(text);
    let hosts = [("github:", GITHUB), ("gitlab:", GITLAB), ("git@github.com:", GITHUB), ("git@gitlab.com:", GITLAB)];
    let known = hosts.into_iter().find_map(|(short, host)| Some(format!("{host}{}", text.strip_prefix(short)?)));
    let schemes = ["https://", "http://", "git://", "ssh://git@", "git+ssh://git@"];
    let rest = |text: &str| schemes.into_iter().find_map(|scheme| text.strip_prefix(scheme)).map(str::to_owned);
    let rest = match known {
        Some(known) => rest(&known)?,
        None => rest(text).or_else(|| (text.split('/').count() == 2).then(|| format!("github.com/{text}")))?,
    };
    let rest = rest.split(['#', '?']).next().unwrap_or_default().trim_end_matches('/');
    let rest = rest.strip_suffix(".git").unwrap_or(rest).to_ascii_lowercase();
    let good = rest.split('/').count() >= 3
        && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b));
    good.then(|| format!("https://{rest}"))
}

/// Who signs for a repository's workflows; none for hosts that are not known to vouch for any.
pub(super) fn expected_of_repository(url: &str) -> Option<Expected> {
    let issuer = if url.starts_with(GITHUB) {
        GITHUB_ISSUER
    } else if url.starts_with(GITLAB) {
        GITLAB_ISSUER
    } else {
        return None;
    };
    let identity = Pattern::Glob("https://**".to_owned());
    Some(Expected::Certificate { identity, issuer: Pattern::Exact(issuer.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_repository_of_a_workflow_takes_no_notice_of_case() {
        let check =
            |found: &str| is_workflow(found, "https://gitlab.com/Group/Name", "//CI/deploy.yml", "refs/heads/main");
        for (found, expected) in [
            ("https://gitlab.com/Group/Name//CI/deploy.yml@refs/heads/main", true),
            ("https://gitlab.com/group/name//CI/deploy.yml@refs/heads/main", true),
            ("https://gitlab.com/Group/Name//ci/deploy.yml@refs/heads/main", false),
            ("https://gitlab.com/Group/Name//CI/Deploy.yml@refs/heads/main", false),
            ("https://gitlab.com/Group/Name//CI/deploy.yml@refs/heads/other", false),
            ("https://gitlab.com/Group/Name//CI/deploy.yml", false),
            ("https://gitlab.com/Group/Namä", false),
            ("", false),
        ] {
            assert_eq!(check(found), expected, "{found}");
        }
    }

    #[test]
    fn repositories_have_many_spellings() {
        let expected = Some("https://github.com/sigstore/sigstore-js");
        for text in [
            "git+https://github.com/sigstore/sigstore-js.git",
            "https://github.com/sigstore/sigstore-js",
            "git://github.com/sigstore/sigstore-js.git",
            "git@github.com:sigstore/sigstore-js.git",
            "git+ssh://git@github.com/sigstore/sigstore-js.git",
            "github:sigstore/sigstore-js",
            "sigstore/sigstore-js",
            "https://github.com/Sigstore/sigstore-js/",
            "https://github.com/sigstore/sigstore-js.git#readme",
        ] {
            assert_eq!(repository_url(text).as_deref(), expected, "{text}");
        }
        assert_eq!(repository_url("gitlab:a/b/c").as_deref(), Some("https://gitlab.com/a/b/c"));
        for text in [
            "",
            "x",
            "https://github.com",
            "https://github.com/a",
            "https://github.com/a/../b",
            "file:///a/b/c",
            "a/b c",
        ] {
            assert_eq!(repository_url(text), None, "{text}");
        }
    }
}
