//! The example sets load against the advertising tools and do what they say.

use countersign_policy::{Policies, SetKind, SourceFile, Verdict};
use serde_json::{Value, json};

use crate::support::{ads_tools, agent, decide, render};

fn examples() -> Policies {
    let file = |path: &str, text: &str, kind| SourceFile { path: path.into(), text: text.into(), kind };
    let files = [
        file("access/ads.cedar", include_str!("../../../../examples/policies/access/ads.cedar"), SetKind::Access),
        file(
            "access/operators.cedar",
            include_str!("../../../../examples/policies/access/operators.cedar"),
            SetKind::Access,
        ),
        file("approval/ads.cedar", include_str!("../../../../examples/policies/approval/ads.cedar"), SetKind::Approval),
    ];
    Policies::load(&files, &ads_tools()).unwrap_or_else(|problems| panic!("{}", render(&problems)))
}

#[test]
fn the_example_sets_do_what_they_say() {
    let policies = examples();
    assert_eq!(policies.warnings(), []);
    let create = |budget: Value| json!({"name": "Spring", "budget": budget, "startDate": "2026-03-01"});
    let id = || json!({"id": "c-1"});
    for (roles, tool, input, verdict, by, approvals) in [
        ("finance-write", "ads:listCampaigns", json!({}), Verdict::Allow, "access/ads.cedar#ads-read", 0),
        ("operator", "ads:getCampaign", id(), Verdict::Allow, "access/operators.cedar#operators-read", 0),
        ("finance-read", "ads:createCampaign", create(json!(10)), Verdict::Deny, "", 0),
        ("finance-write", "ads:createCampaign", create(json!(1000)), Verdict::Allow, "access/ads.cedar#ads-create", 0),
        (
            "finance-write",
            "ads:createCampaign",
            create(json!(1000.01)),
            Verdict::Allow,
            "access/ads.cedar#ads-create",
            1,
        ),
        (
            "finance-write",
            "ads:createCampaign",
            create(json!(10_001)),
            Verdict::Allow,
            "access/ads.cedar#ads-create",
            2,
        ),
        (
            "finance-write",
            "ads:createCampaign",
            create(json!(50_000)),
            Verdict::Allow,
            "access/ads.cedar#ads-create",
            2,
        ),
        (
            "finance-write",
            "ads:createCampaign",
            create(json!(50_000.01)),
            Verdict::Deny,
            "access/ads.cedar#budget-ceiling",
            0,
        ),
        (
            "finance-write",
            "ads:createCampaign",
            create(json!(-1)),
            Verdict::Deny,
            "access/ads.cedar#no-negative-budget",
            0,
        ),
        (
            "finance-write",
            "ads:deleteCampaign",
            id(),
            Verdict::Deny,
            "access/operators.cedar#agents-name-their-person",
            0,
        ),
    ] {
        let decision = decide(&policies, &agent(&[roles]), tool, input.clone());
        let determining = decision.determining.first().map_or("", |p| p.id.as_str());
        let got = (decision.verdict, determining, decision.owed.approvals);
        assert_eq!(got, (verdict, by, approvals), "{roles} {tool} {input}");
    }
    let mut admin = agent(&["ads-admin"]);
    admin.on_behalf_of = Some("alice".into());
    let deletion = decide(&policies, &admin, "ads:deleteCampaign", id());
    assert!(deletion.verdict == Verdict::Allow && deletion.owed.confirm);
    let clerk = decide(&policies, &agent(&["finance-write"]), "ads:createCampaign", create(json!(20_000))).owed;
    assert!(
        !clerk.accepts_roles(&["clerk".to_owned()].into()) && clerk.accepts_roles(&["treasurer".to_owned()].into())
    );
    assert_eq!(clerk.expires_seconds, 600);
}
