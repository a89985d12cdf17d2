package agentapi

import (
	"context"
	"time"
)

// Evaluations are bounded in number and time. One that is out of time keeps
// its permit until it really ends.
const (
	MaxEvaluations = 16
	EvalTimeout    = 5 * time.Second
)

// Why an evaluation gave nothing.
const (
	reasonTimeout = "evaluation timeout"
	reasonFailed  = "policy evaluation unavailable"
)

// evaluate calls f on a goroutine that holds a permit. why is "" where f
// returned.
func evaluate[T any](ctx context.Context, limit time.Duration, permits chan struct{}, f func(context.Context) T) (out T, why string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case permits <- struct{}{}:
	case <-ctx.Done():
		return out, reasonTimeout
	}
	type answer struct {
		v  T
		ok bool
	}
	done := make(chan answer, 1)
	go func() { // ends with f; there are never more than permits
		var a answer
		defer func() {
			_ = recover() // the supervisor is also the data path: a.ok stays false
			<-permits
			done <- a
		}()
		a.v = f(ctx)
		a.ok = true
	}()
	select {
	case a := <-done:
		if !a.ok {
			return out, reasonFailed
		}
		return a.v, ""
	case <-ctx.Done():
		return out, reasonTimeout
	}
}
