package policy

// compiled is the checked and planned form of a rule's condition.
type compiled struct{}
