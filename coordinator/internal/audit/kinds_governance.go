package audit

// Kinds of what becomes of proposals. The subject is the digest of what is
// proposed. With the details kind, proposal, predecessor, expires and accepts
// anybody can write down the text that was signed (apiv1.ApprovalText); an
// approval has the signature and the SHA-256 of the signer's certificate too.
const (
	Proposal          Kind = "proposal"
	Approval          Kind = "approval"
	ApprovalRefused   Kind = "approvalRefused"
	ApprovalWithdrawn Kind = "approvalWithdrawn"
	ProposalWithdrawn Kind = "proposalWithdrawn" // by its proposer
	ProposalRejected  Kind = "proposalRejected"  // by somebody with a say in it
	ProposalExpired   Kind = "proposalExpired"
	ProposalStale     Kind = "proposalStale" // another manifest came in force
)
