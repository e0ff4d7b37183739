//! `get_provenance`: everything that was signed under a name, each signature verified again, and each place where something of it is kept
//! looked at again. What that comes to is decided in `countersign_trust::provenance`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::Principal;
use countersign_ledger::objects::ObjectError;
use countersign_ledger::trust::{TrustKind, TrustPage, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use countersign_registry::RegistryError;
use countersign_trust::bundle::Bundle;
use countersign_trust::provenance::{Chain, Held, Link, Place, PlaceKind, Tally, judge};
use countersign_trust::readiness::Outcome;
use countersign_trust::report::{CheckName, Report, Status};
use countersign_trust::root::TrustedRoot;
use serde_json::{Value, json};
use uuid::Uuid;

use super::assess::{outcome_of, review_of};
use super::documents::document_of;
use super::find::attempt;
use super::sign::{Kept, Unpieced, Whole};
use super::verify::GIVEN;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::time::rfc3339;

/// The most signatures, verifications and reviews that a provenance looks at, each.
const MAX_CHAIN: u32 = 200;
/// How long all the places of one chain may take. What has not answered by then is unavailable.
const PATIENCE: Duration = Duration::from_secs(8);
/// Documents of one chain that are read, in bytes.
const MAX_READ: u64 = 64 << 20;
/// Images of one chain that registries are asked for.
const MAX_IMAGES: usize = 16;

/// A signature of the chain.
struct Found {
    row: TrustRow,
    kept: Option<Kept>,
    pieced: Result<Whole, Unpieced>,
    outcome: Outcome,
    report: Option<Report>,
    places: Vec<Place>,
}

impl Trust {
    pub(super) async fn provenance(&self, principal: &Principal, wanted: tools::Provenance) -> Result<Value, Failure> {
        if let Some(scenario) = self.played(wanted.scenario)? {
            return Ok(scenario.provenance(&wanted.about()?));
        }
        let about = wanted.about()?;
        let signatures = self.about(principal, &about, TrustKind::Signature).await?;
        let reviews = self.about(principal, &about, TrustKind::Review).await?;
        let verifications = self.about(principal, &about, TrustKind::Verification).await?;
        let root = self.own_root().await?;
        let mut found = Vec::new();
        // Oldest first, as the chain grew.
        for row in signatures.rows.into_iter().rev() {
            found.push(self.found(row, &root).await?);
        }
        self.look_at_places(&mut found, &root).await?;
        let counted = verifications.rows.iter().filter(|row| row.artifact_type != GIVEN);
        let chain = Chain {
            links: found.iter().map(Found::link).collect(),
            failed_verifications: counted.filter(|row| row.valid == Some(false)).count() as u64,
            truncated: signatures.more,
        };
        let judged = judge(&chain);
        // The newest manifest stands for the chain; earlier ones are among the rest.
        let newest = found.iter().rposition(Found::is_manifest);
        let manifest = newest.map(|n| self.shown_link(&found[n]));
        let scans = found.iter().enumerate().filter(|(n, _)| Some(*n) != newest);
        let scans: Vec<Value> = scans.map(|(_, one)| self.shown_link(one)).collect();
        let trail = verifications.rows.iter().rev().filter(|_| wanted.include_verification_trail.unwrap_or(true));
        let trail: Vec<Value> = trail.map(attempt).collect();
        Ok(json!({
            "scan_id": about,
            "manifest": manifest,
            "scans": scans,
            "verification_trail": trail,
            "reviews": reviews.rows.iter().rev().filter_map(review_of).collect::<Vec<_>>(),
            "storage_locations": self.summary(&found),
            "chain_status": judged.chain_status,
            "trust_level": judged.trust_level,
            "reasons": judged.reasons,
            "truncated": signatures.more || verifications.more || reviews.more,
        }))
    }

    async fn about(&self, principal: &Principal, about: &str, kind: TrustKind) -> Result<TrustPage, Failure> {
        let query = TrustQuery {
            kind: Some(kind),
            about: Some(tools::digest(about).map_or_else(|_| about.to_owned(), |digest| digest.to_string())),
            limit: MAX_CHAIN,
            ..TrustQuery::of(principal.workspace.clone())
        };
        self.read(move |r| r.trust_rows(&query)).await
    }

    async fn found(&self, row: TrustRow, root: &Arc<TrustedRoot>) -> Result<Found, Failure> {
        let pieced = self.pieced(&row).await?;
        let report = match &pieced {
            Ok(whole) => {
                let standard = self.as_recorded(root, &row, whole);
                Some(self.report(whole.bundle.to_json(), tools::digest(&row.artifact)?, &standard).await?)
            }
            Err(_) => None,
        };
        let outcome = match (&report, &pieced) {
            (Some(report), _) => outcome_of(report),
            (None, Err(why @ Unpieced::NotYet)) => Outcome::Unknown(why.to_string()),
            (None, Err(why)) => Outcome::Invalid(why.to_string()),
            (None, Ok(_)) => Outcome::Unknown("it was not verified".to_owned()),
        };
        let places = vec![in_log(&row, &pieced, report.as_ref(), &self.ledger.head().origin)];
        // Where things are kept is known even of a signature that does not hold.
        let kept = serde_json::from_str(&row.body).ok();
        Ok(Found { row, kept, pieced, outcome, report, places })
    }

    /// Objects one after the other, registries at the same time; all within one deadline.
    async fn look_at_places(&self, found: &mut [Found], root: &Arc<TrustedRoot>) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        let asked = found.iter().filter_map(|one| Some((one, one.kept.as_ref()?.image.as_ref()?.reference.clone())));
        let asked: Vec<_> = asked.enumerate().collect();
        let images = asked.into_iter().map(|(n, (one, reference))| async move {
            let id = one.row.id;
            if n < MAX_IMAGES {
                return self.in_registry(one, reference, root, until).await.map(|place| (id, place));
            }
            let why = format!("more than {MAX_IMAGES} images: this one was not asked for");
            Ok((id, image_place(&one.row, reference, Held::NotChecked, Some(why))))
        });
        let (mut seen, images) =
            tokio::join!(self.look_at_objects(found, until), futures_util::future::join_all(images));
        for image in images {
            seen.push(image?);
        }
        for (id, place) in seen {
            if let Some(one) = found.iter_mut().find(|one| one.row.id == id) {
                one.places.insert(0, place);
            }
        }
        Ok(())
    }

    async fn look_at_objects(&self, found: &[Found], until: Instant) -> Vec<(Uuid, Place)> {
        let (mut seen, mut read) = (Vec::new(), 0_u64);
        for one in found {
            let Some(object) = one.kept.as_ref().and_then(|kept| kept.object.as_ref()) else { continue };
            let place = |status, detail| Place {
                kind: PlaceKind::Object,
                status,
                name: object.key.clone(),
                digest: Some(one.row.artifact.clone()),
                index: None,
                detail,
            };
            read = read.saturating_add(object.size);
            if read > MAX_READ {
                let why = format!("the documents have more than {MAX_READ} bytes together: this one was not read");
                seen.push((one.row.id, place(Held::NotChecked, Some(why))));
                continue;
            }
            let looked = tokio::time::timeout_at(until.into(), document_of(&*self.objects, &one.row, object)).await;
            let (status, detail) = match looked {
                Ok(Ok(_)) => (Held::Intact, None),
                Ok(Err(ObjectError::Missing(_))) => (Held::Missing, Some("the object is missing".to_owned())),
                Ok(Err(ObjectError::Changed { problem, .. })) => (Held::Changed, Some(problem)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, key = object.key, "the document of a scan could not be looked at");
                    (Held::Unavailable, Some("the object store cannot be read right now".to_owned()))
                }
                Err(_) => (Held::Unavailable, Some("the object store did not answer in time".to_owned())),
            };
            seen.push((one.row.id, place(status, detail)));
        }
        seen
    }

    /// An image in its registry: whether what was signed is there, under its name, with the bundle of this signature beside it.
    async fn in_registry(
        &self,
        one: &Found,
        reference: String,
        root: &Arc<TrustedRoot>,
        until: Instant,
    ) -> Result<Place, Failure> {
        let digest = tools::digest(&one.row.artifact)?;
        let looked = self.images.look(&reference, digest, &rfc3339(one.row.at), until).await;
        let (status, detail) = match looked {
            Ok(look) => match self.bundle_beside(one, &look.bundles, digest, root).await? {
                (Held::Intact, _) if look.moved.is_some() => (Held::Moved, look.moved),
                // Some of what is beside the image could not be read, and the bundle may have been among it.
                (Held::Missing, _) if look.unread.is_some() => (Held::Unavailable, look.unread),
                other => other,
            },
            Err(RegistryError::NotFound { .. }) => (Held::Missing, Some("the registry has no such image".to_owned())),
            Err(error @ RegistryError::Mismatch { .. }) => (Held::Changed, Some(error.to_string())),
            Err(error) => (Held::Unavailable, Some(format!("{error}; {}", error.advice()))),
        };
        Ok(image_place(&one.row, reference, status, detail))
    }

    /// The bundle of a signature among those beside its image, verified like any other. A bundle's proof is renewed each time that it
    /// is made, so it is known by the signature in it.
    async fn bundle_beside(
        &self,
        one: &Found,
        bundles: &[bytes::Bytes],
        digest: Digest,
        root: &Arc<TrustedRoot>,
    ) -> Result<(Held, Option<String>), Failure> {
        let Ok(whole) = &one.pieced else {
            return Ok((Held::NotChecked, Some("the recorded signature cannot be put together".to_owned())));
        };
        let standard = self.as_recorded(root, &one.row, whole);
        let own = one.kept.as_ref().map(|kept| kept.signature.as_str()).unwrap_or_default();
        let mut damage = None;
        for bytes in bundles {
            let Ok(bundle) = Bundle::parse(bytes) else { continue };
            if STANDARD.encode(bundle.content.signature()) != own {
                continue;
            }
            let report = self.report(bytes.to_vec(), digest, &standard).await?;
            if report.is_valid() {
                return Ok((Held::Intact, None));
            }
            let codes: Vec<&str> = report.failures().map(|code| code.name()).collect();
            damage = Some(format!("the bundle beside the image does not hold: {}", codes.join(", ")));
        }
        Ok(match damage {
            Some(damage) => (Held::Changed, Some(damage)),
            None => (Held::Missing, Some("no bundle of this signature is beside the image".to_owned())),
        })
    }

    fn shown_link(&self, one: &Found) -> Value {
        let mut shown = self.listed(&one.row);
        shown["valid"] = json!(one.outcome == Outcome::Valid);
        shown["transparency_index"] = json!(one.pieced.as_ref().ok().map(|whole| whole.inclusion.index));
        shown["metadata"] = json!(one.kept.as_ref().map(|kept| &kept.metadata));
        if let Some(scan) = one.kept.as_ref().and_then(|kept| kept.scan.as_ref()) {
            shown["about"] = json!(one.row.chain);
            shown["tools"] = json!(scan.tools);
            shown["findings"] = json!(scan.findings);
        }
        shown["storage_locations"] = json!(one.places);
        match &one.outcome {
            Outcome::Valid => {}
            Outcome::Unknown(why) => shown["reasons"] = json!([why]),
            Outcome::Invalid(why) => {
                let codes: Vec<&str> = one.report.iter().flat_map(Report::failures).map(|code| code.name()).collect();
                shown["reasons"] = if codes.is_empty() { json!([why]) } else { json!(codes) };
            }
        }
        shown
    }

    fn summary(&self, found: &[Found]) -> Value {
        let log = self.ledger.head();
        let of = |kind| Tally::of(kind, found.iter().flat_map(|one| &one.places));
        json!({
            "transparency_log": { "origin": log.origin, "size": log.size, "entries": of(PlaceKind::TransparencyLog) },
            "objects": of(PlaceKind::Object),
            "registries": of(PlaceKind::Registry),
        })
    }
}

impl Found {
    fn is_manifest(&self) -> bool {
        matches!(self.row.artifact_type.as_str(), "manifest" | "scan_manifest")
    }

    fn link(&self) -> Link {
        Link { outcome: self.outcome.clone(), is_manifest: self.is_manifest(), places: self.places.clone() }
    }
}

/// The signature's entry: where it stands, and whether the proof that it does held.
fn in_log(row: &TrustRow, pieced: &Result<Whole, Unpieced>, report: Option<&Report>, origin: &str) -> Place {
    let place = |status, name: &str, index, detail| {
        let digest = None;
        Place { kind: PlaceKind::TransparencyLog, status, name: name.to_owned(), digest, index, detail }
    };
    let whole = match pieced {
        Ok(whole) => whole,
        Err(why) => {
            let status = match why {
                Unpieced::NoEntry => Held::Missing,
                Unpieced::NotYet => Held::Unavailable,
                Unpieced::Unreadable(_) => Held::Changed,
            };
            return place(status, origin, None, Some(format!("{}: {why}", row.id)));
        }
    };
    let proofs = [CheckName::LogEntry, CheckName::Checkpoint, CheckName::Inclusion];
    let checks = proofs.map(|name| report.and_then(|report| report.check(name)));
    let wrong = checks.iter().flatten().find(|check| check.status == Status::Failed);
    let (status, detail) = match wrong {
        Some(check) => {
            let code = check.code.map(|code| code.name().to_owned());
            (Held::Changed, Some(code.unwrap_or_else(|| check.detail.clone())))
        }
        None if checks.iter().all(|check| check.is_some_and(|check| check.status == Status::Passed)) => {
            (Held::Intact, None)
        }
        None => (Held::NotChecked, Some("the proof could not be checked".to_owned())),
    };
    place(status, &whole.inclusion.origin, Some(whole.inclusion.index), detail)
}

fn image_place(row: &TrustRow, name: String, status: Held, detail: Option<String>) -> Place {
    Place { kind: PlaceKind::Registry, status, name, digest: Some(row.artifact.clone()), index: None, detail }
}
