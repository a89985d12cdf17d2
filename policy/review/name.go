package review

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"outcall/policy"
)

// A Name is a host name that a rule compares with.
type Name struct {
	Name  string   `json:"name"`
	Shown string   `json:"shown"` // with the registrable domain in brackets
	Notes []string `json:"notes,omitempty"`
}

// nameOf shows a name. known are the names of the active rules, by what they
// look like.
func nameOf(u policy.TextUse, known map[string]string) Name {
	name := strings.Trim(u.Value, ".")
	n := Name{Name: name, Shown: name}
	if _, err := netip.ParseAddr(name); err == nil || name == "" {
		return n
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err == nil {
		n.Shown = strings.TrimSuffix(name, domain) + "[" + domain + "]"
	} else {
		n.Notes = append(n.Notes, "no registrable domain: everybody's names end so")
	}
	if u.Below {
		n.Shown = "*." + n.Shown
	}
	if strings.Contains(name, "xn--") {
		n.Notes = append(n.Notes, fmt.Sprintf("punycode of %+q", unicodeOf(name)))
	}
	for _, part := range []string{name, domain} {
		if like := known[skeleton(part)]; like != "" && like != part {
			n.Notes = append(n.Notes, "looks like "+like+", which an active rule names")
			break
		}
	}
	for i := range name {
		if name[i] != '.' || domain == "" {
			continue
		}
		if like := known[skeleton(name[:i])]; like == name[:i] && strings.Contains(like, ".") && !strings.HasSuffix(like, "."+domain) && like != domain {
			n.Notes = append(n.Notes, "begins like "+like+", and belongs to "+domain)
		}
	}
	return n
}

func unicodeOf(name string) string {
	u, err := idna.Punycode.ToUnicode(name)
	if err != nil {
		return name
	}
	return u
}

// knownNames are the names of a rule set and their registrable domains, by
// their skeletons.
func knownNames(s *policy.Snapshot) map[string]string {
	known := map[string]string{}
	for _, r := range s.Rules() {
		for _, u := range r.Uses().Texts {
			name := strings.Trim(u.Value, ".")
			if !u.Field.Named() || name == "" {
				continue
			}
			known[skeleton(name)] = name
			if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil && known[skeleton(d)] == "" {
				known[skeleton(d)] = d
			}
		}
	}
	return known
}

// lookAlikes are letters and what a reader takes them for. It is no complete
// table: punycode is always told as such, so this one is for what is all ASCII,
// and for the letters of other scripts that are drawn the same.
var lookAlikes = strings.NewReplacer(
	"0", "o", "1", "l", "i", "l", "5", "s", "rn", "m", "vv", "w", "cl", "d", "-", "",
	"а", "a", "е", "e", "о", "o", "р", "p", "с", "c", "у", "y", "х", "x", "ѕ", "s", "і", "l", "ј", "j", "һ", "h", "ԁ", "d", "ӏ", "l", "к", "k", "т", "t",
	"α", "a", "ο", "o", "ρ", "p", "ν", "v", "ι", "l", "κ", "k", "ı", "l", "ɡ", "g", "ⅼ", "l",
)

// skeleton is what names have in common that look alike.
func skeleton(name string) string {
	if strings.Contains(name, "xn--") {
		name = unicodeOf(name)
	}
	return lookAlikes.Replace(strings.ToLower(name))
}
