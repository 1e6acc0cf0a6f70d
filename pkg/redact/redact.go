// Package redact masks secrets in a text.
package redact

import (
	"os"
	"regexp"
	"strings"
)

// Mask replaces a secret.
const Mask = "…"

// Each of them keeps its first group and replaces the rest.
var patterns = []*regexp.Regexp{
	// The userinfo of a URL: postgres://me:secret@host.
	regexp.MustCompile(`(://[^/\s@:]*:)[^/\s]*(?:@)`),
	// Headers.
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}`),
	regexp.MustCompile(`(?i)(\b(?:set-)?cookie:\s*)\S.*`),
	// Tokens with a known prefix.
	regexp.MustCompile(`()\b(?:sk|pk|rk)[-_](?:[a-zA-Z0-9]+[-_])*[a-zA-Z0-9_-]{16,}`),
	regexp.MustCompile(`()\b(?:gh[opsur]_|github_pat_|glpat-|gl[a-z]{2,4}-|npm_|pypi-|hf_|xox[a-z]-|xapp-|dop_v1_|ya29\.|shp(?:at|ss)_|glsa_|glc_|AGE-SECRET-KEY-)[\w.-]{8,}`),
	regexp.MustCompile(`()\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`),
	regexp.MustCompile(`()\bAIza[\w-]{30,}`),
	regexp.MustCompile(`()\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)*`),
	// name=value and "name": "value".
	regexp.MustCompile(`(?i)([\w.-]*(?:password|passwd|passphrase|secret|credential|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|[_-]token|\btoken|pgpass|\bpwd)[\w.-]*["']?\s*(?:=|:|=>)\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s&'",;)}\]]+)`),
	// --password value
	regexp.MustCompile(`(?i)(--?[\w-]*(?:password|passwd|secret|token|api-?key)[ \t]+)(?:"[^"\n]*"|'[^'\n]*'|[^\s-]\S*)`),
}

var (
	keyBlock = regexp.MustCompile(`(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`)
	// The end of a block of which the beginning was cut off.
	keyEnd = regexp.MustCompile(`(?s)\A.*?(-----END [A-Z ]*PRIVATE KEY-----)`)
	// Variables whose value is a secret by their name.
	secretName = regexp.MustCompile(`(?i)(password|passwd|secret|token|api_?key|access_?key|private_?key|credential|_auth$|_key$)`)
)

// Text masks secrets in common forms: in URLs, headers and settings, tokens with a
// known prefix, private keys, and values of environment variables whose names say
// that they are secret.
func Text(text string) string {
	text = keyBlock.ReplaceAllString(text, "${1}"+Mask+"${2}")
	if end := keyEnd.FindStringIndex(text); end != nil && !strings.Contains(text[:end[1]], "-----BEGIN") {
		text = Mask + text[end[1]:]
	}
	for i, pattern := range patterns {
		replacement := "${1}" + Mask
		if i == 0 {
			replacement += "@"
		}
		text = pattern.ReplaceAllString(text, replacement)
	}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if len(value) >= 8 && secretName.MatchString(name) && !strings.HasPrefix(value, "/") {
			text = strings.ReplaceAll(text, value, Mask)
		}
	}
	return text
}
