package ask

import (
	"fmt"
	"strconv"
	"time"
)

// Limits of OUTCALL_TIMEOUT_SECS; the time bounds a conversation, not the
// command that may follow.
const (
	defaultTimeout = 30
	minTimeout     = 1
	maxTimeout     = 300
)

// FromEnv returns the client that an environment describes and how long its
// conversation may take. OUTCALL_AGENT_SOCK and OUTCALL_TIMEOUT_SECS are the
// agent's own to set: they choose who is asked, and open nothing.
func FromEnv(env []string) (Client, time.Duration, error) {
	c := Client{Socket: Getenv(env, "OUTCALL_AGENT_SOCK")}
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	v := Getenv(env, "OUTCALL_TIMEOUT_SECS")
	if v == "" {
		return c, defaultTimeout * time.Second, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < minTimeout || n > maxTimeout || strconv.Itoa(n) != v {
		return c, 0, fmt.Errorf("OUTCALL_TIMEOUT_SECS=%q: want %d to %d", v, minTimeout, maxTimeout)
	}
	return c, time.Duration(n) * time.Second, nil
}

// Getenv returns a variable of an environment, "" where it is not set. Of one
// that is given twice the last counts, as for a shell.
func Getenv(env []string, key string) string {
	v := ""
	for _, kv := range env {
		if len(kv) > len(key) && kv[len(key)] == '=' && kv[:len(key)] == key {
			v = kv[len(key)+1:]
		}
	}
	return v
}
