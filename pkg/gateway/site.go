package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/idna"

	"github.com/specwatch/specwatch/pkg/api"
)

// Check refuses options that cannot work at an address, host:port, and returns
// the others in the form that New wants.
func (o Options) Check(address string) (Options, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return o, fmt.Errorf("the address to listen on is host:port, such as 127.0.0.1:8001: %w", err)
	}
	if !isLoopback(host) && (o.ReadToken == "" || o.WriteToken == "") {
		return o, fmt.Errorf("%s can be reached from other machines: set SPECWATCH_READ_TOKEN and SPECWATCH_WRITE_TOKEN first, or listen on 127.0.0.1", address)
	}
	var origins, hosts []string
	for _, text := range o.Origins {
		origin, err := parseOrigin(text)
		if err != nil {
			return o, err
		}
		origins = append(origins, origin)
	}
	for _, text := range o.Hosts {
		host, err := parseHost(text)
		if err != nil {
			return o, err
		}
		hosts = append(hosts, host)
	}
	if host != "" {
		hosts = append(hosts, host)
	}
	if o.BasePath, err = parseBasePath(o.BasePath); err != nil {
		return o, err
	}
	o.Origins, o.Hosts = origins, hosts
	return o, nil
}

// parseOrigin reads an origin as a person may write it and returns it as
// browsers do: in lower case, without a path and without the scheme's own port.
func parseOrigin(text string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("%q cannot be allowed as an origin: %s; an origin is scheme://host or scheme://host:port, such as https://grafana.example", text, why)
	}
	text = strings.TrimSpace(text)
	u, err := url.Parse(text)
	switch {
	case strings.ContainsAny(text, "*"):
		return refuse("it stands for many; name each origin")
	case err != nil:
		return refuse("it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("it does not begin with http:// or https://")
	case u.User != nil:
		return refuse("it has a user name")
	case u.Path != "" && u.Path != "/":
		return refuse(fmt.Sprintf("it has a path, %s, and browsers tell none", u.Path))
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return refuse("something follows the host")
	case u.Hostname() == "":
		return refuse("it has no host")
	}
	name, err := hostName(u.Hostname())
	if err != nil {
		return refuse("its host is not a name")
	}
	return u.Scheme + "://" + withPort(name, u.Port(), u.Scheme), nil
}

// withPort is a host as browsers write it.
func withPort(name, port, scheme string) string {
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port == "" || port == map[string]string{"http": "80", "https": "443"}[scheme] {
		return name
	}
	return name + ":" + port
}

// parseHost reads a name of this gateway. A port may follow it, and means
// nothing.
func parseHost(text string) (string, error) {
	text = strings.TrimSpace(text)
	name, err := hostName(hostOf(text))
	if err != nil || name == "" || strings.ContainsAny(text, "/*@ ") {
		return "", fmt.Errorf("%q cannot be allowed as a host: it is the name that clients use for this gateway, such as watch.example", text)
	}
	return name, nil
}

// hostName is a name as it stands in requests: in lower case and in ASCII.
func hostName(text string) (string, error) {
	text = strings.ToLower(strings.TrimSuffix(text, "."))
	if _, err := netip.ParseAddr(text); err == nil {
		return text, nil
	}
	for _, c := range text {
		if c >= 0x80 {
			return idna.Lookup.ToASCII(text)
		}
	}
	if strings.ContainsAny(text, " /\\@?#%:[]\"<>^`{|}") {
		return "", errors.New("not a name")
	}
	return text, nil
}

// hostOf is a Host header without its port and brackets.
func hostOf(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = header
	}
	return strings.Trim(host, "[]")
}

// parseBasePath reads the path below which the gateway is reached; "" is none.
func parseBasePath(text string) (string, error) {
	path := strings.TrimRight(text, "/")
	if path == "" {
		return "", nil
	}
	u, err := url.Parse(path)
	if err != nil || !strings.HasPrefix(path, "/") || u.Path != path || strings.Contains(path, "//") || strings.Contains(path+"/", "/../") || strings.Contains(path+"/", "/./") ||
		strings.ContainsAny(path, "; \t\r\n\"\\") {
		return "", fmt.Errorf("%q cannot be a base path: it begins with / and consists of plain words, such as /watch/", text)
	}
	return path, nil
}

func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostAllowed reports whether a request names this gateway. A page of another
// site can reach it by a name of its own which it made resolve to this machine
// (DNS rebinding), and to the browser both are then one site. A name is
// therefore taken only if it is known; an address cannot be made to resolve to
// another.
func (g *Gateway) hostAllowed(header string) bool {
	host := hostOf(header)
	if _, err := netip.ParseAddr(host); err == nil || host == "" || isLoopback(host) {
		return true
	}
	return g.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
}

func (g *Gateway) hostChecked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.hostAllowed(r.Host) {
			g.noteRefusal("a request for an unknown host was refused; if it is a name of this gateway, allow it", "host", r.Host, "set", "--allow-host "+hostOf(r.Host))
			refuse(w, api.Problem{Status: http.StatusMisdirectedRequest, Title: "unknown host",
				Detail: "the gateway does not know the host name of this request as its own; allow the name with --allow-host"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// originAllowed prevents pages of other sites from opening the WebSocket with the
// reader's cookie. Programs send no Origin.
func (g *Gateway) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	// A proxy may have changed the host, and then only the browser knows that
	// the page came from here.
	if origin == "" || g.origins[origin] || r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		port = ""
	}
	return strings.EqualFold(withPort(u.Hostname(), u.Port(), u.Scheme), withPort(hostOf(r.Host), port, u.Scheme))
}

func (g *Gateway) noteOrigin(r *http.Request) {
	g.noteRefusal("a page of another origin was refused; if it is a page of this gateway behind a proxy, let the proxy pass Host on, or allow the origin",
		"origin", r.Header.Get("Origin"), "host", r.Host, "path", r.URL.Path, "set", "--allow-origin "+r.Header.Get("Origin"))
}

// noteRefusal logs a refused request, with the flag that would allow it. Anybody
// can cause such lines, so their number is limited.
func (g *Gateway) noteRefusal(what string, args ...any) {
	g.refusals.Do(func() {
		for i, arg := range args {
			if text, ok := arg.(string); ok && len(text) > 256 {
				args[i] = text[:256] + "…"
			}
		}
		g.options.Log.Warn(what, args...)
	})
}
