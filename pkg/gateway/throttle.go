package gateway

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Wrong tokens that a person may type.
const (
	guessesEach  = 5 // from one address, and one more every …
	guessEach    = 5 * time.Second
	guessesAll   = 50 // from all addresses together
	guessAll     = time.Second
	maxAddresses = 1_000 // that are remembered
)

// throttle limits wrong tokens. Right tokens do not count.
type throttle struct {
	mu   sync.Mutex
	all  *rate.Limiter
	each map[netip.Prefix]*rate.Limiter
	rest *rate.Limiter // of the addresses that are too many to remember
}

func newThrottle() *throttle {
	limiter := func() *rate.Limiter { return rate.NewLimiter(rate.Every(guessEach), guessesEach) }
	return &throttle{all: rate.NewLimiter(rate.Every(guessAll), guessesAll), each: map[netip.Prefix]*rate.Limiter{}, rest: limiter()}
}

// try checks a token of an address, unless the address has tried too many: then it
// returns how long to wait. Tokens are checked one after the other, so that
// concurrent requests cannot avoid the limit.
func (t *throttle) try(remote string, guess func() bool) (right bool, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	own := t.limiter(prefixOf(remote), now)
	for _, l := range []*rate.Limiter{own, t.all} {
		if missing := 1 - l.TokensAt(now); missing > 0 {
			wait = max(wait, time.Duration(missing/float64(l.Limit())*float64(time.Second)))
		}
	}
	if wait > 0 {
		return false, wait
	}
	if guess() {
		return true, 0
	}
	own.AllowN(now, 1)
	t.all.AllowN(now, 1)
	return false, 0
}

func (t *throttle) limiter(from netip.Prefix, now time.Time) *rate.Limiter {
	if l := t.each[from]; l != nil {
		return l
	}
	if len(t.each) >= maxAddresses {
		for prefix, l := range t.each {
			if l.TokensAt(now) >= guessesEach {
				delete(t.each, prefix)
			}
		}
	}
	if len(t.each) >= maxAddresses {
		return t.rest
	}
	l := rate.NewLimiter(rate.Every(guessEach), guessesEach)
	t.each[from] = l
	return l
}

// prefixOf returns the IPv4 address, or the /64 network of an IPv6 address.
func prefixOf(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
