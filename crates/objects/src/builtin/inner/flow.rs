//! The parts of flow schemas and priority levels.

use super::Is::{Each, Flag, Number, Of, Optional, Text, Whole};
use super::Part;

const PRIORITY_LEVEL_CONFIGURATION_REFERENCE: &[Part] = &[Part("Name", "name", Text)];
pub(in crate::builtin) const FLOW_DISTINGUISHER_METHOD: &[Part] = &[Part("Type", "type", Text)];
const USER_SUBJECT: &[Part] = &[Part("Name", "name", Text)];
const GROUP_SUBJECT: &[Part] = &[Part("Name", "name", Text)];
const SERVICE_ACCOUNT_SUBJECT: &[Part] = &[Part("Namespace", "namespace", Text), Part("Name", "name", Text)];
const SUBJECT: &[Part] = &[
    Part("Kind", "kind", Text),
    Part("User", "user", Of(USER_SUBJECT)),
    Part("Group", "group", Of(GROUP_SUBJECT)),
    Part("ServiceAccount", "serviceAccount", Of(SERVICE_ACCOUNT_SUBJECT)),
];
const RESOURCE_POLICY_RULE: &[Part] = &[
    Part("Verbs", "verbs", Optional),
    Part("APIGroups", "apiGroups", Optional),
    Part("Resources", "resources", Optional),
    Part("ClusterScope", "clusterScope", Flag),
    Part("Namespaces", "namespaces", Optional),
];
const NON_RESOURCE_POLICY_RULE: &[Part] =
    &[Part("Verbs", "verbs", Optional), Part("NonResourceURLs", "nonResourceURLs", Optional)];
const POLICY_RULES_WITH_SUBJECTS: &[Part] = &[
    Part("Subjects", "subjects", Each(SUBJECT)),
    Part("ResourceRules", "resourceRules", Each(RESOURCE_POLICY_RULE)),
    Part("NonResourceRules", "nonResourceRules", Each(NON_RESOURCE_POLICY_RULE)),
];
pub(in crate::builtin) const FLOW_SCHEMA_SPEC: &[Part] = &[
    Part(
        "PriorityLevelConfiguration",
        "priorityLevelConfiguration",
        Whole(PRIORITY_LEVEL_CONFIGURATION_REFERENCE),
    ),
    Part("MatchingPrecedence", "matchingPrecedence", Number),
    Part("DistinguisherMethod", "distinguisherMethod", Of(FLOW_DISTINGUISHER_METHOD)),
    Part("Rules", "rules", Each(POLICY_RULES_WITH_SUBJECTS)),
];
const QUEUING_CONFIGURATION: &[Part] = &[
    Part("Queues", "queues", Number),
    Part("HandSize", "handSize", Number),
    Part("QueueLengthLimit", "queueLengthLimit", Number),
];
const LIMIT_RESPONSE: &[Part] =
    &[Part("Type", "type", Text), Part("Queuing", "queuing", Of(QUEUING_CONFIGURATION))];
const LIMITED_PRIORITY_LEVEL_CONFIGURATION: &[Part] = &[
    Part("NominalConcurrencyShares", "nominalConcurrencyShares", Number),
    Part("LimitResponse", "limitResponse", Whole(LIMIT_RESPONSE)),
    Part("LendablePercent", "lendablePercent", Optional),
    Part("BorrowingLimitPercent", "borrowingLimitPercent", Optional),
];
const EXEMPT_PRIORITY_LEVEL_CONFIGURATION: &[Part] = &[
    Part("NominalConcurrencyShares", "nominalConcurrencyShares", Optional),
    Part("LendablePercent", "lendablePercent", Optional),
];
pub(in crate::builtin) const PRIORITY_LEVEL_CONFIGURATION_SPEC: &[Part] = &[
    Part("Type", "type", Text),
    Part("Limited", "limited", Of(LIMITED_PRIORITY_LEVEL_CONFIGURATION)),
    Part("Exempt", "exempt", Of(EXEMPT_PRIORITY_LEVEL_CONFIGURATION)),
];
