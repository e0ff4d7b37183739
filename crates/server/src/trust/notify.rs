//! `notify_team`: a team is told about an artifact, by a webhook that the operator configured for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use countersign_domain::Principal;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_trust::notify::signature::{Headers, Secret, sign};
use countersign_trust::notify::{Draft, Notification};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{Trust, tools};
use crate::capability::{Failure, clipped};
use crate::config::{TeamSettings, TeamStyle};
use crate::time::rfc3339;

/// How long a webhook may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of its answer is read.
const MAX_ANSWER: usize = 64 << 10;

/// Where teams are told.
pub(crate) struct Teams(BTreeMap<String, Team>);

struct Team {
    url: Url,
    style: TeamStyle,
    secret: Option<Secret>,
    http: PurposeClient,
}

impl Teams {
    /// # Errors
    /// In words, if a secret cannot be read or a way out not be set up.
    pub fn open(settings: &[TeamSettings], egress: &Egress) -> Result<Self, String> {
        let mut teams = BTreeMap::new();
        for team in settings {
            let wrong = |why: String| format!("the team {}: {why}", team.name);
            let secret = match &team.secret_file {
                None => None,
                Some(path) => {
                    let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
                    Some(Secret::parse(text.trim()).map_err(|e| wrong(format!("{}: {e}", path.display())))?)
                }
            };
            let http = egress.client_for(Purpose::Webhook, &team.webhook).map_err(|e| wrong(e.to_string()))?;
            teams.insert(team.name.clone(), Team { url: team.webhook.clone(), style: team.style, secret, http });
        }
        Ok(Self(teams))
    }
}

impl Trust {
    pub(super) async fn notify(&self, principal: &Principal, wanted: tools::Notify) -> Result<Value, Failure> {
        let known = || self.teams.0.keys().cloned().collect::<Vec<_>>().join(", ");
        let team = self.teams.0.get(&wanted.team).ok_or_else(|| {
            Failure::NotFound(format!(
                "no webhook is configured for a team {:?}; there are: {}",
                clipped(&wanted.team),
                known()
            ))
        })?;
        let (id, now) = (Uuid::now_v7(), (self.clock)());
        let subject = wanted.subject.unwrap_or_else(|| "please have a look".to_owned());
        let person = principal.on_behalf_of.as_ref().map(|person| format!(" for {person}")).unwrap_or_default();
        let by = format!("— {}{person} in {}", principal.id, principal.workspace);
        let draft = Draft {
            team: wanted.team.clone(),
            artifact: wanted.artifact,
            subject,
            text: [wanted.text.as_deref().unwrap_or_default(), &by].join("\n").trim().to_owned(),
            link: wanted.link,
            event_id: id.to_string(),
            at_ms: i64::try_from(now).unwrap_or(i64::MAX),
        };
        let notification = Notification::new(draft).map_err(|e| Failure::Input(e.to_string()))?;
        let body = match team.style {
            TeamStyle::Webhook => notification.webhook(),
            TeamStyle::Slack => notification.slack(),
        };
        let status = team.tell(&id.to_string(), body.to_string().into_bytes(), now / 1000).await?;
        Ok(
            json!({ "notified": true, "team": wanted.team, "notification_id": id.to_string(), "at": rfc3339(now), "status": status }),
        )
    }
}

impl Team {
    async fn tell(&self, id: &str, body: Vec<u8>, seconds: u64) -> Result<u16, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.secret {
            let signed: Headers =
                sign(std::slice::from_ref(secret), id, seconds, &body).map_err(|e| Failure::Undone(e.to_string()))?;
            for (name, value) in signed.pairs() {
                let value = HeaderValue::from_str(value).map_err(|e| Failure::Undone(e.to_string()))?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let sent = self.http.send(Method::POST, &self.url, headers, body.into(), deadline);
        let response = sent.await.map_err(|error: EgressError| match error.not_sent() {
            true => Failure::Undone(format!("the webhook of the team was not reached: {error}")),
            false => Failure::Unknown(format!("whether the team was told is not known: {error}")),
        })?;
        let status = response.status();
        // What it says besides is of no use, and is not passed on.
        drop(response.bytes(MAX_ANSWER, deadline).await);
        if status.is_success() {
            Ok(status.as_u16())
        } else {
            Err(Failure::Input(format!("the webhook of the team answered {status}")))
        }
    }
}
