package gateway

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A browser exchanges a token for a cookie once, so that the token is never in a
// URL or readable by scripts. The cookie is signed with the token, so each gateway
// with the same token accepts it, for what the token permits.
const (
	cookieName = "specwatch_session"
	cookieAge  = 30 * 24 * time.Hour
	maxRevoked = 10_000
)

// session is what a cookie says.
type session struct {
	id    string
	until int64 // Unix time in milliseconds

	writes bool // it was signed with the write token
}

func newSession() session {
	return session{id: rand.Text(), until: time.Now().Add(cookieAge).UnixMilli()}
}

func (s session) text() string { return strconv.FormatInt(s.until, 10) + "." + s.id }

func sign(s session, token string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("specwatch session " + s.text()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signedIn returns the session of a request's cookie.
func (g *Gateway) signedIn(r *http.Request) (s session, ok bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	until, rest, _ := strings.Cut(cookie.Value, ".")
	id, signature, _ := strings.Cut(rest, ".")
	s.id = id
	if s.until, err = strconv.ParseInt(until, 10, 64); err != nil {
		return session{}, false
	}
	signedWith := func(token string) bool { return token != "" && equal(signature, sign(s, token)) }
	s.writes = signedWith(g.options.WriteToken)
	if !s.writes && !signedWith(g.options.ReadToken) || time.Now().UnixMilli() >= s.until || g.sessions.revoked(s) {
		return session{}, false
	}
	return s, true
}

// sessions are those that were ended before they expired. Only this process knows
// them.
type sessions struct {
	mu    sync.Mutex
	ended map[string]int64 // until when, by id
	all   int64            // sessions until then, or earlier, have all ended
	open  map[string]map[int]func()
	last  int
}

func (s *sessions) revoked(one session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ended := s.ended[one.id]
	return ended || one.until <= s.all
}

// revoke ends a session and closes its WebSockets. If more sessions have ended than
// can be remembered, all end, and people sign in again.
func (s *sessions) revoke(one session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.ended) >= maxRevoked {
		for id, until := range s.ended {
			if until < now.UnixMilli() {
				delete(s.ended, id)
			}
		}
	}
	if len(s.ended) >= maxRevoked {
		s.ended, s.all = nil, now.Add(cookieAge).UnixMilli()
		for _, ends := range s.open {
			for _, end := range ends {
				end()
			}
		}
	}
	if s.ended == nil {
		s.ended = map[string]int64{}
	}
	s.ended[one.id] = one.until
	for _, end := range s.open[one.id] {
		end()
	}
}

// attach calls end when the session is revoked, until it is detached.
func (s *sessions) attach(one session, end func()) (detach func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ended := s.ended[one.id]; ended || one.until <= s.all {
		end()
	}
	if s.open == nil {
		s.open = map[string]map[int]func(){}
	}
	if s.open[one.id] == nil {
		s.open[one.id] = map[int]func(){}
	}
	s.last++
	key := s.last
	s.open[one.id][key] = end
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open[one.id], key)
		if len(s.open[one.id]) == 0 {
			delete(s.open, one.id)
		}
	}
}
