// Package clients runs real package clients in the sandbox against the
// registries that this machine's own configuration names. It needs a network
// and stands behind the build tag "clients" (make clients).
package clients
