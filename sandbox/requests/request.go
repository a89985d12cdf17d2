package requests

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Statuses of a request.
const (
	Pending  = "pending"
	Approved = "approved"
	Rejected = "rejected"
	Expired  = "expired"
)

// A Request is a rule file that an agent proposed.
type Request struct {
	ID        string    `json:"id"`
	Status    string    `json:"status"`
	Session   string    `json:"session"`
	Agent     string    `json:"agent"`
	Submitted time.Time `json:"submitted"`
	SHA256    string    `json:"sha256"`              // of the text
	Text      string    `json:"rule_file,omitempty"` // while it waits or is in force
	Answered  time.Time `json:"answered,omitzero"`
	Expires   time.Time `json:"expires,omitzero"` // of an approval for a time
	Reason    string    `json:"reason,omitempty"` // of a rejection
}

// Limits of one project. What waits or is in force is never pruned; beyond
// its limits there is ErrFull.
const (
	MaxText     = 64 << 10
	MaxReason   = 1 << 10
	maxPending  = 64
	maxApproved = 64
	maxTexts    = 2 << 20 // of all texts together
	maxAnswered = 128     // rejected and expired: the oldest go
	keepFor     = 30 * 24 * time.Hour
	maxFile     = 16 << 20 // of what is read
)

// Errors of a change that cannot be made.
var (
	ErrNotFound = errors.New("rule request not found")
	ErrFull     = errors.New("too many rule requests")
	ErrChanged  = errors.New("the rule request is not the one that was shown")
)

// A StatusError says that a request is in no state for a change.
type StatusError struct {
	ID, Status string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("rule request %s is %s", e.ID, e.Status)
}

// Hash is the SHA-256 of a text, in hexadecimal digits.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// CheckReason refuses what an agent must not be told in one line.
func CheckReason(reason string) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return errors.New("the reason is blank")
	case len(reason) > MaxReason:
		return fmt.Errorf("the reason has %d bytes, more than %d", len(reason), MaxReason)
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, notPlain):
		return errors.New("the reason holds control characters")
	}
	return nil
}

// notPlain finds control, format and separator characters: they would act on
// the terminal of who reads it.
func notPlain(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }

// ended reports a request that nothing more comes of.
func (r *Request) ended() bool { return r.Status == Rejected || r.Status == Expired }

// check finds what no store of ours would hold.
func (r *Request) check() error {
	digits, ok := strings.CutPrefix(r.ID, "rr-")
	switch {
	case !ok || len(digits) != 12 || strings.Trim(digits, "0123456789abcdef") != "":
		return fmt.Errorf("%.32q is no id of a request", r.ID)
	case r.Status != Pending && r.Status != Approved && !r.ended():
		return fmt.Errorf("%s has the status %.32q", r.ID, r.Status)
	case !r.ended() && (r.Text == "" || Hash(r.Text) != r.SHA256):
		return fmt.Errorf("%s does not have the SHA-256 that is noted for it", r.ID)
	case len(r.Text) > MaxText:
		return fmt.Errorf("%s has %d bytes", r.ID, len(r.Text))
	}
	return nil
}

// due reports an approval whose time is up.
func (r *Request) due(now time.Time) bool {
	return r.Status == Approved && !r.Expires.IsZero() && !now.Before(r.Expires)
}

// end takes the text away: it stands in the audit and with who wrote it.
func (r *Request) end(status, reason string, now time.Time) {
	r.Status, r.Reason, r.Text = status, reason, ""
	if status != Expired {
		r.Answered = now
	}
}
