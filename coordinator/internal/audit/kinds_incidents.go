package audit

// Kinds of incidents. The subject is who or what it is about, such as
// "marble web/7f2c…" or "user alice". The details are incident (its number),
// reason, and those that say on whose word it was done.
const (
	Revoked         Kind = "revoked"
	Quarantined     Kind = "quarantined"
	BreakGlass      Kind = "breakGlass" // a rule is lifted; until says for how long
	IncidentLifted  Kind = "incidentLifted"
	BreakGlassEnded Kind = "breakGlassEnded" // its time was over
	IncidentRefused Kind = "incidentRefused" // a user may not
)
