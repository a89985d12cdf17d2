package dnsfilter

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

// What may be asked upstream below one registrable domain in a minute. An
// allowed suffix is a channel to whoever runs the zone: these bound what it
// carries. A name counts once a minute whatever its types and repetitions, so
// a program that resolves the same few names all the time never meets a bound;
// what the cache answers is not counted, for it does not leave.
const (
	budgetSpan    = time.Minute
	BudgetNames   = 100     // distinct names
	BudgetBytes   = 4 << 10 // of those names together
	BudgetFailed  = 50      // distinct names that had no answer
	BudgetDomains = 4096    // domains that are counted at once
)

// An overBudget error says which bound a question met. It is a structural
// denial.
type overBudget struct{ domain, bound string }

func (e *overBudget) Error() string {
	return fmt.Sprintf("the minute's questions below %s are used up: %s", e.domain, e.bound)
}

// budgets counts the questions that leave.
type budgets struct {
	clock func() time.Time
	seed  maphash.Seed

	mu     sync.Mutex
	spent  map[string]*spending // by registrable domain
	sweeps time.Time            // when the old ones were last forgotten
}

// A spending is one domain's minute. The names are kept as hashes: that two
// are the same by chance costs nobody anything.
type spending struct {
	since  time.Time
	bytes  int
	failed int
	names  map[uint64]bool // true: it failed
}

func newBudgets(clock func() time.Time) *budgets {
	return &budgets{clock: clock, seed: maphash.MakeSeed(), spent: map[string]*spending{}}
}

// registrable returns the domain whose owner answers for a name: one label
// below the public suffix, private suffixes included, for below those each
// customer has a zone of its own.
func registrable(name string) string {
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name // itself a suffix
}

// take counts a name that is about to be asked, or says why it is not.
func (b *budgets) take(name string) error {
	domain := registrable(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	s := b.spent[domain]
	if s == nil || now.Sub(s.since) >= budgetSpan {
		if s == nil && !b.room(now) {
			return &overBudget{"all domains", fmt.Sprintf("more than %d of them", BudgetDomains)}
		}
		s = &spending{since: now, names: map[uint64]bool{}}
		b.spent[domain] = s
	}
	h := maphash.String(b.seed, name)
	if _, asked := s.names[h]; asked {
		return nil
	}
	switch {
	case len(s.names) >= BudgetNames:
		return &overBudget{domain, fmt.Sprintf("more than %d names", BudgetNames)}
	case s.bytes+len(name) > BudgetBytes:
		return &overBudget{domain, fmt.Sprintf("more than %d octets of names", BudgetBytes)}
	case s.failed >= BudgetFailed:
		return &overBudget{domain, fmt.Sprintf("%d names had no answer", BudgetFailed)}
	}
	s.names[h] = false
	s.bytes += len(name)
	return nil
}

// failed counts a name that had no answer.
func (b *budgets) failed(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.spent[registrable(name)]
	if s == nil {
		return
	}
	h := maphash.String(b.seed, name)
	if before, asked := s.names[h]; asked && !before {
		s.names[h] = true
		s.failed++
	}
}

// room makes place for one more domain. A domain is never forgotten before
// its minute is over: that would give it a new one.
func (b *budgets) room(now time.Time) bool {
	if len(b.spent) < BudgetDomains {
		return true
	}
	if now.Sub(b.sweeps) >= time.Second { // a flood must not make each question a sweep
		b.sweeps = now
		for d, s := range b.spent {
			if now.Sub(s.since) >= budgetSpan {
				delete(b.spent, d)
			}
		}
	}
	return len(b.spent) < BudgetDomains
}
