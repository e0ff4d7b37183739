//! `notify_team`: a team is told about an artifact, by the webhook and the mail addresses that the operator configured for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use countersign_domain::{Millis, Principal};
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_trust::notify::mail::{Envelope, mail};
use countersign_trust::notify::signature::{Headers, Secret, sign};
use countersign_trust::notify::{Draft, Notification};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{Trust, tools};
use crate::capability::{Failure, clipped};
use crate::config::{TeamSettings, TeamStyle, TrustSettings, WebhookSettings};
use crate::keys::read_secret;
use crate::mail::{MailError, Mailer, Recipient};
use crate::time::rfc3339;

/// How long a webhook may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a mail server may take, all its steps together. Shorter than a call's deadline.
const MAIL_PATIENCE: Duration = Duration::from_secs(20);
/// How much of a webhook's answer is read.
const MAX_ANSWER: usize = 64 << 10;

/// Where teams are told.
pub(crate) struct Teams {
    named: BTreeMap<String, Team>,
    mailer: Option<Mailer>,
}

struct Team {
    webhook: Option<Hook>,
    /// Addresses.
    mail: Vec<String>,
}

struct Hook {
    url: Url,
    style: TeamStyle,
    secret: Option<Secret>,
    http: PurposeClient,
}

/// What became of one way of telling.
struct Told {
    channel: &'static str,
    outcome: Result<Value, Failure>,
    /// Whether everybody whom it is for was told.
    everybody: bool,
}

impl Teams {
    /// The node calls itself `hello` to mail servers.
    ///
    /// # Errors
    /// In words, if a secret cannot be read or a way out not be set up.
    pub fn open(settings: &TrustSettings, hello: &str, egress: &Egress) -> Result<Self, String> {
        let mailer = settings.mail.as_ref().map(|mail| Mailer::open(mail, hello, egress)).transpose();
        let mailer = mailer.map_err(|why| format!("[trust.mail]: {why}"))?;
        let mut named = BTreeMap::new();
        for team in &settings.teams {
            named.insert(team.name.clone(), Team::open(team, egress)?);
        }
        Ok(Self { named, mailer })
    }
}

impl Team {
    fn open(settings: &TeamSettings, egress: &Egress) -> Result<Self, String> {
        let webhook = settings.webhook.as_ref().map(|webhook| Hook::open(webhook, egress)).transpose();
        let webhook = webhook.map_err(|why| format!("the team {}: {why}", settings.name))?;
        Ok(Self { webhook, mail: settings.mail.clone() })
    }
}

impl Trust {
    pub(super) async fn notify(&self, principal: &Principal, wanted: tools::Notify) -> Result<Value, Failure> {
        let known = || self.teams.named.keys().cloned().collect::<Vec<_>>().join(", ");
        let team = self.teams.named.get(&wanted.team).ok_or_else(|| {
            Failure::NotFound(format!("no team {:?} is configured; there are: {}", clipped(&wanted.team), known()))
        })?;
        let (id, now) = (Uuid::now_v7(), (self.clock)());
        let name = wanted.team.clone();
        let notification = notification(principal, wanted, &id.to_string(), now)?;
        let (by_webhook, by_mail) =
            tokio::join!(async { Some(team.webhook.as_ref()?.tell(&notification).await) }, async {
                Some(
                    self.teams.mailer.as_ref().filter(|_| !team.mail.is_empty())?.tell(&team.mail, &notification).await,
                )
            });
        let told: Vec<Told> = [by_webhook, by_mail].into_iter().flatten().collect();
        if told.iter().all(|told| told.outcome.is_err()) {
            return Err(nobody(told));
        }
        Ok(json!({
            "notified": true,
            "complete": told.iter().all(|told| told.everybody),
            "team": name,
            "notification_id": id.to_string(),
            "at": rfc3339(now),
            "channels": told.iter().map(Told::report).collect::<Vec<_>>(),
        }))
    }
}

fn notification(principal: &Principal, wanted: tools::Notify, id: &str, now: Millis) -> Result<Notification, Failure> {
    let person = principal.on_behalf_of.as_ref().map(|person| format!(" for {person}")).unwrap_or_default();
    let by = format!("— {}{person} in {}", principal.id, principal.workspace);
    let draft = Draft {
        team: wanted.team,
        artifact: wanted.artifact,
        subject: wanted.subject.unwrap_or_else(|| "please have a look".to_owned()),
        text: [wanted.text.as_deref().unwrap_or_default(), &by].join("\n").trim().to_owned(),
        link: wanted.link,
        event_id: id.to_owned(),
        at_ms: i64::try_from(now).unwrap_or(i64::MAX),
    };
    Notification::new(draft).map_err(|e| Failure::Input(e.to_string()))
}

/// Nobody was told. One who may have been makes it unknown for all.
fn nobody(told: Vec<Told>) -> Failure {
    let why = told.iter().filter_map(|told| told.outcome.as_ref().err()).map(Failure::to_string);
    let why = why.collect::<Vec<_>>().join("; ");
    let failures: Vec<Failure> = told.into_iter().filter_map(|told| told.outcome.err()).collect();
    if failures.iter().any(|failure| matches!(failure, Failure::Unknown(_))) {
        Failure::Unknown(why)
    } else {
        Failure::Outside(why)
    }
}

impl Told {
    /// What is said of it where another way has worked.
    fn report(&self) -> Value {
        let mut report = json!({ "channel": self.channel });
        match &self.outcome {
            Ok(Value::Object(more)) => {
                report["outcome"] = json!("accepted");
                more.iter().for_each(|(name, value)| report[name] = value.clone());
            }
            Ok(_) => report["outcome"] = json!("accepted"),
            Err(failure) => {
                report["outcome"] = json!(if matches!(failure, Failure::Unknown(_)) { "unknown" } else { "failed" });
                report["reason"] = json!(failure.to_string());
            }
        }
        report
    }
}

impl Hook {
    fn open(settings: &WebhookSettings, egress: &Egress) -> Result<Self, String> {
        let secret = match &settings.secret_file {
            None => None,
            Some(path) => {
                let text = read_secret(path)?;
                Some(Secret::parse(text.expose().trim()).map_err(|e| format!("{}: {e}", path.display()))?)
            }
        };
        let http = egress.client_for(Purpose::Webhook, &settings.url).map_err(|e| e.to_string())?;
        Ok(Self { url: settings.url.clone(), style: settings.style, secret, http })
    }

    async fn tell(&self, notification: &Notification) -> Told {
        let outcome = self.post(notification).await.map(|status| json!({ "status": status }));
        Told { channel: "webhook", everybody: outcome.is_ok(), outcome }
    }

    async fn post(&self, notification: &Notification) -> Result<u16, Failure> {
        let body = match self.style {
            TeamStyle::Webhook => notification.webhook(),
            TeamStyle::Slack => notification.slack(),
        };
        let body = body.to_string().into_bytes();
        let draft = notification.draft();
        let seconds = u64::try_from(draft.at_ms / 1000).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.secret {
            let signed = sign(std::slice::from_ref(secret), &draft.event_id, seconds, &body);
            let signed: Headers = signed.map_err(|e| Failure::Undone(e.to_string()))?;
            for (name, value) in signed.pairs() {
                let value = HeaderValue::from_str(value).map_err(|e| Failure::Undone(e.to_string()))?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let sent = self.http.send(Method::POST, &self.url, headers, body.into(), deadline);
        let response = sent.await.map_err(|error: EgressError| match error.not_sent() {
            true => Failure::Outside(format!("the webhook of the team was not reached: {error}")),
            false => Failure::Unknown(format!("whether the team was told by its webhook is not known: {error}")),
        })?;
        let status = response.status();
        // What it says besides is of no use, and is not passed on.
        drop(response.bytes(MAX_ANSWER, deadline).await);
        if status.is_success() {
            Ok(status.as_u16())
        } else {
            Err(Failure::Outside(format!("the webhook of the team answered {status}")))
        }
    }
}

impl Mailer {
    async fn tell(&self, to: &[String], notification: &Notification) -> Told {
        let outcome = self.post(to, notification).await;
        let everybody = outcome.as_ref().is_ok_and(|to| to.iter().all(|recipient| recipient.refused.is_none()));
        let outcome = outcome.map(|to| json!({ "recipients": to.iter().map(reported).collect::<Vec<_>>() }));
        Told { channel: "mail", outcome, everybody }
    }

    async fn post(&self, to: &[String], notification: &Notification) -> Result<Vec<Recipient>, Failure> {
        let addresses: Vec<&str> = to.iter().map(String::as_str).collect();
        let seconds = u64::try_from(notification.draft().at_ms / 1000).unwrap_or_default();
        let envelope = Envelope { from: self.from(), to: &addresses, seconds };
        let text = mail(notification, &envelope).map_err(|e| Failure::Undone(e.to_string()))?;
        let sent = self.send(to, &text, Instant::now() + MAIL_PATIENCE).await;
        sent.map_err(|error| match error {
            MailError::Undone(why) => Failure::Outside(format!("no mail was sent to the team: {why}")),
            MailError::Unknown(why) => {
                Failure::Unknown(format!("whether the team was told by mail is not known: {why}"))
            }
        })
    }
}

fn reported(recipient: &Recipient) -> Value {
    match &recipient.refused {
        None => json!({ "address": recipient.address, "outcome": "accepted" }),
        Some(refusal) => json!({
            "address": recipient.address, "outcome": "refused", "reason": format!("the mail server answered {refusal}"),
        }),
    }
}
