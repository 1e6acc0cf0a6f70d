package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
)

// A browser trades the read token for a cookie once, so that no token is ever
// in a URL or in reach of scripts. The cookie is not the token: it is signed
// with it, so every gateway with the same token knows it.
const (
	cookieName = "specwatch_session"
	cookieAge  = 30 * 24 * time.Hour
)

// reader lets those in who may read.
func (g *Gateway) reader(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.options.ReadToken != "" && !bears(r, g.options.ReadToken) && !g.signedIn(r) {
			refuseUnknown(w, "reading", "SPECWATCH_READ_TOKEN")
			return
		}
		next(w, r)
	})
}

// writer lets those in who may write. A cookie does not do: what a browser
// sends by itself must not change anything.
func (g *Gateway) writer(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.options.WriteToken != "" && !bears(r, g.options.WriteToken) {
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
	return strings.EqualFold(scheme, "Bearer") && equal(strings.TrimSpace(given), token)
}

// equal compares in a time that depends on neither text.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func (g *Gateway) sign(expiry string) string {
	mac := hmac.New(sha256.New, []byte(g.options.ReadToken))
	mac.Write([]byte("specwatch session until " + expiry))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (g *Gateway) signedIn(r *http.Request) bool {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	expiry, signature, _ := strings.Cut(cookie.Value, ".")
	until, err := strconv.ParseInt(expiry, 10, 64)
	return err == nil && time.Now().Unix() < until && equal(signature, g.sign(expiry))
}

func (g *Gateway) login(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&body); err != nil {
		refuse(w, api.Problem{Status: http.StatusBadRequest, Title: "bad request", Detail: `the body is JSON: {"token":"…"}`, Field: "token"})
		return
	}
	if g.options.ReadToken == "" {
		w.WriteHeader(http.StatusNoContent) // nobody is asked
		return
	}
	if !equal(strings.TrimSpace(body.Token), g.options.ReadToken) {
		refuse(w, api.Problem{Status: http.StatusUnauthorized, Title: "wrong token", Detail: "this is not the read token of this gateway", Field: "token"})
		return
	}
	expiry := strconv.FormatInt(time.Now().Add(cookieAge).Unix(), 10)
	g.setCookie(w, r, expiry+"."+g.sign(expiry), int(cookieAge.Seconds()))
}

func (g *Gateway) logout(w http.ResponseWriter, r *http.Request) { g.setCookie(w, r, "", -1) }

func (g *Gateway) setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
	w.WriteHeader(http.StatusNoContent)
}

// originAllowed keeps pages of other sites from opening the WebSocket with
// the reader's cookie. Programs send no Origin.
func (g *Gateway) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(g.options.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// hostChecked keeps a site from reaching an open gateway on the reader's own
// machine by a name that it made resolve to loopback (DNS rebinding). With a
// token there is nothing to gain by it.
func (g *Gateway) hostChecked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.options.ReadToken == "" || g.options.WriteToken == "" {
			host, _, err := net.SplitHostPort(r.Host)
			if err != nil {
				host = r.Host
			}
			if !isLoopback(host) && !g.ownHost(r.Host) {
				refuse(w, api.Problem{Status: http.StatusMisdirectedRequest, Title: "unknown host",
					Detail: "without tokens the gateway answers to localhost only; set SPECWATCH_READ_TOKEN and SPECWATCH_WRITE_TOKEN, or allow the origin with --allow-origin"})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (g *Gateway) ownHost(host string) bool {
	return slices.ContainsFunc(g.options.Origins, func(origin string) bool {
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Host, host)
	})
}
