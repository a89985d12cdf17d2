package policy

// warnings lists what is legal and probably not meant.
func (l *loader) warnings(rules []*Rule) []string { return nil }
