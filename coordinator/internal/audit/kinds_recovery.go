package audit

// Kinds of what opens the state. A recovery, a drill and an accepted rollback
// have the subject "state" and the details session (SHA-256 of its bytes),
// deployment, generation, holders and, where one began, epoch. Each holder's
// signature has a record of its own: the user is its subject, and with session,
// index, share (SHA-256 of the encrypted share), at, signature and certificate
// (SHA-256) anybody can check it (docs/wire.md).
const (
	Recovery         Kind = "recovery"
	RecoveryDrill    Kind = "recoveryDrill"
	RollbackAccepted Kind = "rollbackAccepted"
	RecoveryApproval Kind = "recoveryApproval"
	Restored         Kind = "restored"     // the state was put back by the restore command
	Behind           Kind = "behind"       // proof of a newer state was shown
	RecoveryKeys     Kind = "recoveryKeys" // holders, their keys or certificates changed
	Resealed         Kind = "resealed"     // the data key is sealed by another source, or a newer key of it
	BackupTaken      Kind = "backup"
)

// opened is what is public of all of them.
var opened = []string{"session", "deployment", "generation", "holders", "threshold", "epoch", "index", "share", "at", "signature", "certificate",
	"purpose", "source", "size", "head"}
