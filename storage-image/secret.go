package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	identity = "/var/run/secrets/kubernetes.io/serviceaccount"
	// The kubelet writes a changed Secret into the mount within about 90 seconds; after this time only the file counts.
	mountLag = 3 * time.Minute
	// Minimum time between requests to the API server, whatever the number of unknown names.
	pause = time.Second
)

// errNotAsked becomes a 500, which clients retry: the account may exist.
var errNotAsked = errors.New("the Secret of the accounts could not be read yet")

// secret is the mounted Secret as the API server has it: it has a new namespace's key before the kubelet has written the
// key into the mount.
type secret struct {
	name string

	mutex  sync.Mutex
	asking bool
	asked  time.Time // time of the last answer or failure
	read   time.Time // time of the data
	data   map[string][]byte
	failed error
}

// value returns the key of an account in the Secret, or nil if the Secret has none. A single call at a time asks the API
// server; others do not wait for it.
func (s *secret) value(name string) ([]byte, error) {
	if s.name == "" {
		return nil, nil
	}
	s.mutex.Lock()
	if key, ok := s.data[name]; ok && time.Since(s.read) < mountLag {
		s.mutex.Unlock()
		return key, nil
	}
	if s.asking {
		s.mutex.Unlock()
		return nil, errNotAsked
	}
	if time.Since(s.asked) < pause {
		defer s.mutex.Unlock()
		return nil, s.failed
	}
	s.asking = true
	s.mutex.Unlock()

	data, err := s.get()

	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.asking, s.asked, s.failed = false, time.Now(), nil
	if err != nil {
		log.Printf("cannot read the Secret %s, so accounts newer than its mount are unknown: %v", s.name, err)
		s.failed = errNotAsked
		return nil, s.failed
	}
	s.data, s.read = data, s.asked
	return data[name], nil
}

func (s *secret) get() (map[string][]byte, error) {
	token, err := os.ReadFile(filepath.Join(identity, "token"))
	if err != nil {
		return nil, err
	}
	namespace, err := os.ReadFile(filepath.Join(identity, "namespace"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(identity, "ca.crt"))
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	client := http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, DisableKeepAlives: true},
	}
	url := fmt.Sprintf("https://kubernetes.default.svc/api/v1/namespaces/%s/secrets/%s", namespace, s.name)
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answers %s", answer.Status)
	}
	var body struct{ Data map[string][]byte }
	err = json.NewDecoder(answer.Body).Decode(&body)
	return body.Data, err
}
