//! Chains of certificates (RFC 5280 section 6, as far as Sigstore's chains need it) and SCTs (RFC 6962 section 3.2).

use der::asn1::ObjectIdentifier;

use super::work::Work;
use super::{Failure, Outcome, fail};
use crate::asn1::oid;
use crate::certificate::{Certificate, Sct, TLS_ECDSA_SHA256};
use crate::keys::{HashAlgorithm, PublicKey};
use crate::report::Code;
use crate::root::{AuthorityInstance, LogInstance};

/// For what a chain is looked at: what its leaf must be for, and how failures are named.
pub(super) struct Purpose {
    key_usage: ObjectIdentifier,
    /// RFC 3161 section 2.3: the only purpose, and a critical one.
    alone: bool,
    leaf_not_valid: Code,
    issuer_not_valid: Code,
    signature_wrong: Code,
    profile: Code,
}

pub(super) const SIGNING: Purpose = Purpose {
    key_usage: oid::CODE_SIGNING,
    alone: false,
    leaf_not_valid: Code::CertificateNotValid,
    issuer_not_valid: Code::AuthorityNotValid,
    signature_wrong: Code::CertificateSignatureWrong,
    profile: Code::CertificateProfile,
};
pub(super) const TIMESTAMPING: Purpose = Purpose {
    key_usage: oid::TIME_STAMPING,
    alone: true,
    leaf_not_valid: Code::TimestampAuthorityNotValid,
    issuer_not_valid: Code::TimestampAuthorityNotValid,
    signature_wrong: Code::TimestampSignatureWrong,
    profile: Code::TimestampProfile,
};

/// The authority that issued a signer's certificate, trusted at all of these times, and its chain from the issuer upwards.
pub(super) fn find_issuers<'a>(
    leaf: &Certificate,
    authorities: &'a [AuthorityInstance],
    times: &[u64],
    work: &mut Work,
) -> Result<(&'a AuthorityInstance, &'a [Certificate]), Failure> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.dedup();
    let mut failure = None;
    for authority in authorities {
        // Authorities also issue from above the first certificate of their chain.
        for from in (0..authority.chain.len()).filter(|i| authority.chain[*i].subject() == leaf.issuer()) {
            let issuers = &authority.chain[from..];
            match issued_by(leaf, authority, issuers, &times, work) {
                Ok(()) => return Ok((authority, issuers)),
                Err(spent @ Failure(Code::TooManySignatures, _)) => return Err(spent),
                // Of several authorities with one name, the one whose key it is says most about what is wrong.
                Err(Failure(Code::CertificateSignatureWrong, _)) if failure.is_some() => {}
                Err(other) => failure = Some(other),
            }
        }
    }
    let unknown = || Failure(Code::AuthorityUnknown, format!("no trusted authority is called {}", leaf.issuer()));
    Err(failure.unwrap_or_else(unknown))
}

/// Signatures hold at all times or at none, so that each is verified once, and those above the leaf's after everything else.
fn issued_by(
    leaf: &Certificate,
    authority: &AuthorityInstance,
    issuers: &[Certificate],
    times: &[u64],
    work: &mut Work,
) -> Result<(), Failure> {
    if !leaf.may_be_signed_by(&issuers[0]) {
        let detail = format!("it names another key of its issuer than that of {}", issuers[0].subject());
        return fail(Code::CertificateSignatureWrong, detail);
    }
    check_signed(leaf, &issuers[0], &SIGNING, work)?;
    if times.is_empty() {
        return fail(Code::NoTrustedTime, "nobody trusted says when it was used");
    }
    if let Some(time) = times.iter().find(|time| !authority.window.contains(**time)) {
        return fail(Code::AuthorityNotValid, format!("the authority was not trusted at {time}"));
    }
    check_unsigned(leaf, issuers, times, &SIGNING)?;
    check_above(issuers, &SIGNING, work)
}

/// Checks a leaf and its issuers up to the last, which is trusted, at a time in seconds. Without issuers, the leaf itself
/// is trusted.
pub(super) fn check(
    leaf: &Certificate,
    issuers: &[Certificate],
    at: u64,
    purpose: &Purpose,
    work: &mut Work,
) -> Result<(), Failure> {
    check_unsigned(leaf, issuers, &[at], purpose)?;
    if let Some(issuer) = issuers.first() {
        check_signed(leaf, issuer, purpose, work)?;
    }
    check_above(issuers, purpose, work)
}

/// All of a chain but its signatures, at times in seconds.
fn check_unsigned(
    leaf: &Certificate,
    issuers: &[Certificate],
    times: &[u64],
    purpose: &Purpose,
) -> Result<(), Failure> {
    if let Some(at) = times.iter().find(|at| !leaf.is_valid_at(**at)) {
        let detail = format!("valid from {} to {}, used at {at}", leaf.not_before(), leaf.not_after());
        return fail(purpose.leaf_not_valid, detail);
    }
    if let Err(detail) = leaf_profile(leaf, purpose) {
        return fail(purpose.profile, detail);
    }
    let mut child = leaf;
    for (below, issuer) in issuers.iter().enumerate() {
        if child.issuer() != issuer.subject() || issuer.subject().is_empty() {
            return fail(purpose.profile, "a certificate is not followed by its issuer's");
        }
        if let Some(at) = times.iter().find(|at| !issuer.is_valid_at(**at)) {
            return fail(purpose.issuer_not_valid, format!("{} was not valid at {at}", issuer.subject()));
        }
        if let Err(detail) = issuer_profile(issuer, below, purpose) {
            return fail(purpose.profile, detail);
        }
        child = issuer;
    }
    Ok(())
}

/// Each of the issuers is signed by the next.
fn check_above(issuers: &[Certificate], purpose: &Purpose, work: &mut Work) -> Result<(), Failure> {
    issuers.windows(2).try_for_each(|pair| check_signed(&pair[0], &pair[1], purpose, work))
}

fn check_signed(child: &Certificate, issuer: &Certificate, purpose: &Purpose, work: &mut Work) -> Result<(), Failure> {
    work.spend()?;
    match child.is_signed_by(issuer) {
        Ok(true) => Ok(()),
        Ok(false) => fail(purpose.signature_wrong, format!("it is not signed by {}", issuer.subject())),
        Err(error) => fail(Code::KeyUnsupported, error),
    }
}

fn leaf_profile(leaf: &Certificate, purpose: &Purpose) -> Result<(), String> {
    let error = |e: crate::certificate::CertificateError| e.to_string();
    if leaf.has_unknown_critical_extension() {
        return Err("it has a critical extension that is not understood".to_owned());
    }
    if leaf.basic_constraints().map_err(error)?.is_some_and(|c| c.ca) {
        return Err("it is an authority's certificate".to_owned());
    }
    if !leaf.key_usage().map_err(error)?.is_some_and(|usage| usage.digital_signature()) {
        return Err("its key is not for signatures".to_owned());
    }
    let purposes = leaf.extended_key_usage().map_err(error)?.map(|usage| usage.0).unwrap_or_default();
    let critical = leaf.extension(oid::EXTENDED_KEY_USAGE).is_some_and(|e| e.critical);
    if !purposes.contains(&purpose.key_usage) || (purpose.alone && (purposes.len() > 1 || !critical)) {
        return Err("its key is not for this purpose".to_owned());
    }
    Ok(())
}

/// `below`: how many authorities stand between this one and the leaf.
fn issuer_profile(issuer: &Certificate, below: usize, purpose: &Purpose) -> Result<(), String> {
    let error = |e: crate::certificate::CertificateError| e.to_string();
    if issuer.has_unknown_critical_extension() {
        return Err("an issuer has a critical extension that is not understood".to_owned());
    }
    let constraints = issuer.basic_constraints().map_err(error)?.filter(|c| c.ca);
    let constraints = constraints.ok_or_else(|| format!("{} is no authority's certificate", issuer.subject()))?;
    if constraints.path_len_constraint.is_some_and(|most| below > usize::from(most)) {
        return Err("there are more authorities in the chain than one of them allows".to_owned());
    }
    if !issuer.key_usage().map_err(error)?.is_some_and(|usage| usage.key_cert_sign()) {
        return Err("an issuer's key is not for certificates".to_owned());
    }
    match issuer.extended_key_usage().map_err(error)? {
        Some(purposes) if !purposes.0.contains(&purpose.key_usage) => {
            Err("an issuer's certificates are not for this purpose".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether one of the embedded SCTs is by a trusted key, and none in the name of one is wrong.
pub(super) fn check_scts(
    certificate: &Certificate,
    issuer: &Certificate,
    logs: &[LogInstance],
    work: &mut Work,
) -> Outcome {
    let scts = match certificate.scts() {
        Ok(scts) if scts.is_empty() => return fail(Code::SctMissing, "the certificate has no SCT"),
        Ok(scts) => scts,
        Err(error) => return fail(Code::CertificateMalformed, error),
    };
    let mut found = fail(Code::SctLogUnknown, "no SCT is by a trusted key");
    for sct in &scts {
        let Some(log) = logs.iter().find(|log| log.log_id == sct.log_id) else { continue };
        work.spend()?;
        check_sct(certificate, issuer, sct, log)?;
        found = Ok(format!("logged at {}", sct.timestamp / 1000));
    }
    found
}

fn check_sct(certificate: &Certificate, issuer: &Certificate, sct: &Sct, log: &LogInstance) -> Result<(), Failure> {
    let key = match PublicKey::from_spki(&log.public_key) {
        Ok(key @ PublicKey::P256(_)) if sct.algorithm == TLS_ECDSA_SHA256 => key,
        Ok(_) => return fail(Code::KeyUnsupported, "SCTs by keys of this kind are not supported"),
        Err(error) => return fail(Code::KeyUnsupported, error),
    };
    let message = certificate.sct_message(sct, issuer);
    let message = message.or_else(|error| fail(Code::CertificateMalformed, error))?;
    if !key.verify(HashAlgorithm::Sha256, &message, &sct.signature) {
        return fail(Code::SctSignatureWrong, "the SCT's signature does not hold");
    }
    if !log.window.contains(sct.timestamp / 1000) {
        return fail(Code::SctLogNotValid, format!("the SCT's key was not trusted at {}", sct.timestamp / 1000));
    }
    Ok(())
}
