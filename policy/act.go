package policy

// An Action is what the data path does with a verdict. Act is the one table
// from words to actions; the data path and explain both use it.
type Action uint8

// The actions.
const (
	// Refuse as the layer refuses: NXDOMAIN, TCP reset or ICMP
	// admin-prohibited, 403, TLS alert.
	Refuse Action = iota
	// Answer the DNS question and pin the addresses.
	Answer
	// RelayUnread: relay both ways without looking at the bytes.
	RelayUnread
	// RelayRead: relay at once; the client's first flight (UDP: every QUIC long
	// header) is judged before it leaves, without waiting for it.
	RelayRead
	// Hold: dial (TCP: then accept), let the server's bytes pass, and send
	// nothing upstream before the bytes are judged as hello, request or raw
	// (bounded read). For UDP the first datagram is judged before it leaves.
	Hold
	// Pass: these bytes (hello, request, raw), this packet (ICMP) or this
	// action (run) may go.
	Pass
)

var actionNames = [...]string{"refuse", "answer", "relay unread", "relay", "hold", "pass"}

func (a Action) String() string { return actionNames[a] }

// Act is the house's table (layer × word → action). proto matters at flow
// only. pinned tells that a live pin stands at the address of the flow; at
// connect, that the client gave a name (MayResolve has been asked then) or
// that a live pin stands at the literal address.
//
//	layer               allow                     provisional  open               deny
//	dns                 Answer                    Answer       Refuse             Refuse
//	flow tcp, udp       RelayRead, RelayUnread*   Hold         pinned: Hold       Refuse
//	flow icmp           Pass                      Refuse       Refuse             Refuse
//	connect             RelayRead, RelayUnread*   Hold         pinned: Hold       Refuse
//	hello request raw   Pass                      Refuse       Refuse             Refuse
//	run                 Pass                      Refuse       Refuse             Refuse
//
// * where the outcome is Granted or Literal. At connect and at an explicit
// request the table is for the verdict with network.ip known; before that,
// MayResolve decides.
func Act(layer Layer, proto Proto, o Outcome, pinned bool) Action {
	switch layer {
	case LayerDNS:
		if o.Word >= Provisional {
			return Answer
		}
	case LayerFlow, LayerConnect:
		if layer == LayerFlow && proto == ICMP {
			return passIf(o.Word == Allow)
		}
		switch {
		case o.Word == Allow && (o.Granted || o.Literal):
			return RelayUnread
		case o.Word == Allow:
			return RelayRead
		case o.Word == Provisional, o.Word == Open && pinned:
			return Hold
		}
	case LayerHello, LayerRequest, LayerRaw, LayerRun:
		return passIf(o.Word == Allow)
	}
	return Refuse
}

func passIf(ok bool) Action {
	if ok {
		return Pass
	}
	return Refuse
}

// MayResolve decides whether the explicit proxy resolves a name that the
// client gave: o is the verdict of connect or request without an address, dns
// the verdict of the dns layer for the name's A (or AAAA) question. A question
// is an effect, too: where o is open the dns layer must answer. Where o is
// allow or provisional no dns allow is needed, but a dns block vetoes.
func MayResolve(o, dns Outcome) bool {
	switch o.Word {
	case Allow, Provisional:
		return dns.Word != Deny || dns.Rule == nil
	case Open:
		return dns.Word >= Provisional
	}
	return false
}

// Observe is Act in --mode observe: what enforce would deny by rule goes on
// as if it were allowed, and wouldDeny says so. Structural denials stay.
func Observe(layer Layer, proto Proto, fl Flow, pinned bool) (a Action, wouldDeny bool) {
	a = Act(layer, proto, fl.Outcome, pinned)
	if a != Refuse || fl.Structural {
		return a, false
	}
	switch layer {
	case LayerDNS:
		return Answer, true
	case LayerFlow, LayerConnect:
		if proto == ICMP {
			return Pass, true
		}
		return RelayRead, true
	}
	return Pass, true
}
