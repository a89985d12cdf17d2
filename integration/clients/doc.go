// Package clients runs real package clients in the sandbox against the
// registries that this machine's own configuration names, and real coding
// agents from the npm registry, with their hooks installed, against a model of
// the tests' own. It needs a network and stands behind the build tag "clients"
// (make clients).
package clients
