package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/specwatch/specwatch/pkg/api"
)

// reader requires the read token, the write token, or a cookie for one of them.
// Writers may read, because a program that asks a question waits for the answer.
// It parses the parameters of the URL for the handler, and refuses those that cannot
// be parsed.
func (g *Gateway) reader(next func(http.ResponseWriter, *http.Request, url.Values)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, signedIn := g.signedIn(r); g.options.ReadToken != "" && !g.bearsToken(r) && !signedIn {
			refuseUnknown(w, "reading", "SPECWATCH_READ_TOKEN or SPECWATCH_WRITE_TOKEN")
			return
		}
		query, err := api.ParseQuery(r.URL)
		if err != nil {
			refuse(w, api.BadRequest(err))
			return
		}
		next(w, r, query)
	})
}

// writer requires the write token, or a cookie for it. Browsers send no cookie
// from pages of other sites, and Handler refuses writes from these.
func (g *Gateway) writer(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, _ := g.signedIn(r); g.options.WriteToken != "" && !bears(r, g.options.WriteToken) && !s.writes {
			refuseUnknown(w, "writing", "SPECWATCH_WRITE_TOKEN")
			return
		}
		next(w, r)
	})
}

func refuseUnknown(w http.ResponseWriter, what, variable string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="specwatch"`)
	refuse(w, api.Problem{Status: http.StatusUnauthorized, Title: "token required",
		Detail: fmt.Sprintf("%s needs the header Authorization: Bearer with the token that the gateway has in %s", what, variable)})
}

func bears(r *http.Request, token string) bool {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return token != "" && strings.EqualFold(scheme, "Bearer") && equal(strings.TrimSpace(given), token)
}

// bearsToken reports whether the request has a token that permits reading.
func (g *Gateway) bearsToken(r *http.Request) bool {
	return bears(r, g.options.ReadToken) || bears(r, g.options.WriteToken)
}

// equal compares in a time that depends on neither text.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// login exchanges a token for a cookie that permits the same. A session that
// gains the right to write keeps its id, so that signing out ends all of it.
func (g *Gateway) login(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&body); err != nil {
		refuse(w, api.Problem{Status: http.StatusBadRequest, Title: "bad request", Detail: `the body is JSON: {"token":"…"}`, Field: "token"})
		return
	}
	if g.options.ReadToken == "" && g.options.WriteToken == "" {
		w.WriteHeader(http.StatusNoContent) // no token is required
		return
	}
	var token string
	right, wait := g.guesses.try(r.RemoteAddr, func() bool {
		given := strings.TrimSpace(body.Token)
		switch {
		case given == "":
		case equal(given, g.options.WriteToken):
			token = g.options.WriteToken
		case equal(given, g.options.ReadToken):
			token = g.options.ReadToken
		}
		return token != ""
	})
	switch {
	case wait > 0:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		refuse(w, api.Problem{Status: http.StatusTooManyRequests, Title: "too many attempts",
			Detail: fmt.Sprintf("too many wrong tokens were tried; try again in %d seconds", int(math.Ceil(wait.Seconds())))})
	case !right:
		refuse(w, api.Problem{Status: http.StatusUnauthorized, Title: "wrong token", Detail: "this is not a token of this gateway", Field: "token"})
	default:
		s, ok := g.signedIn(r)
		if !ok || s.writes {
			s = newSession()
		}
		g.setCookie(w, r, s.text()+"."+sign(s, token), int(cookieAge.Seconds()))
	}
}

// logout ends the session for all copies of its cookie.
func (g *Gateway) logout(w http.ResponseWriter, r *http.Request) {
	if s, ok := g.signedIn(r); ok {
		g.sessions.revoke(s)
	}
	g.setCookie(w, r, "", -1)
}

func (g *Gateway) setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: g.options.BasePath + "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: secure(r),
	})
	w.WriteHeader(http.StatusNoContent)
}

// secure reports whether the browser uses TLS, to this gateway or to a proxy. A
// client that sends a false header only changes its own cookie.
func secure(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return r.TLS != nil || strings.EqualFold(strings.TrimSpace(first), "https") || strings.HasPrefix(r.Header.Get("Origin"), "https://")
}
