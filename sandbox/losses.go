package sandbox

import (
	"context"
	"time"

	"outcall/policy"
)

// lossInterval is how often the audit learns what the kernel refused without
// having room to log it.
const lossInterval = time.Second

// losses sums the packets that the table dropped and that nobody could judge,
// since they came faster than they were read. Nothing passed by that, but
// each was an attempt: the table's own counters tell how many there were.
type losses struct {
	seen  uint64 // times that the log ran over, when it was last looked at
	told  uint64 // packets that the audit knows of
	total uint64 // that the table had refused by the last look
}

// watchLosses runs until ctx ends. It reads the counters only while the log
// runs over: a table of many rules has many of them.
func (s *supervisor) watchLosses(ctx context.Context) error {
	tick := time.NewTicker(lossInterval)
	defer tick.Stop()
	for active := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		was := active
		if active = s.nflog.Lost() != s.losses.seen; active || was {
			s.losses.seen = s.nflog.Lost()
			before := s.losses.total
			s.countRefused(ctx)
			// What had been refused a look ago has been read by now, or never
			// will be.
			s.tellLosses(before)
		}
	}
}

// lastLosses is called when nothing reads the log any more.
func (s *supervisor) lastLosses(ctx context.Context) {
	if s.nflog.Lost() > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endGrace)
		defer cancel()
		s.countRefused(ctx)
		s.tellLosses(s.losses.total)
	}
}

// countRefused asks the table. Where it cannot tell, the next look does.
func (s *supervisor) countRefused(ctx context.Context) {
	if c, err := s.table.Counters(ctx); err == nil {
		s.losses.total = c.Denied.Packets + c.Spoofed.Packets + c.Group.Packets
	}
}

// tellLosses writes how many of refused packets were not read.
func (s *supervisor) tellLosses(refused uint64) {
	known := s.nflog.Received() + s.losses.told
	if refused <= known {
		return
	}
	n := refused - known
	s.losses.told += n
	s.audit.Record(s.event("limit", policy.Event{Count: int(n),
		Reason: "packets came faster than they could be logged: refused without a verdict of their own"}))
}
