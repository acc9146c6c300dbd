// net/http and pgx on Go, as services are written in it: prepared statements, one statement an operation, verified tokens
// remembered, bodies checked by hand. No row-level security. PGHOST and its kin name the database. One line of access log
// for each request, as everybody has.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	threads          = 2
	poolSize         = 16
	rememberedTokens = 10_000
	bodyLimitBytes   = 65_536

	columns   = "id::text, user_id, title, description, completed, created_at, updated_at"
	changed   = "version = version + 1, updated_at = now()"
	get       = "select " + columns + " from tasks where user_id = $1 and id = $2"
	list      = "select " + columns + " from tasks where user_id = $1 order by tasks.id desc limit $2"
	listAfter = "select " + columns + " from tasks where user_id = $1 and id < $3 order by tasks.id desc limit $2"
	create    = "insert into tasks (user_id, id, title, description) values ($1, $2, $3, $4) returning " + columns
	replace   = "update tasks set title = $3, description = $4, completed = coalesce($5, completed), " + changed +
		" where user_id = $1 and id = $2 returning " + columns
	toggle = "update tasks set completed = not completed, " + changed + " where user_id = $1 and id = $2 returning " + columns
)

type Task struct {
	Id          string    `json:"id"`
	UserId      string    `json:"user_id"`
	Title       string    `json:"title"`
	Description *string   `json:"description"`
	Completed   bool      `json:"completed"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

type Page struct {
	Items      []Task  `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

type Content struct {
	Title       *string `json:"title"`
	Description *string `json:"description"`
	Completed   *bool   `json:"completed"`
}

type Answer struct {
	status   int
	body     any
	location string
}

type Verified struct {
	userId    string
	expiresAt int64
}

type Server struct {
	pool   *pgxpool.Pool
	secret []byte
	lock   sync.RWMutex
	tokens map[string]Verified
}

var refused = map[int]string{400: "Invalid", 401: "Not authenticated", 403: "Not yours", 404: "Not found", 405: "Not allowed", 500: "Failed"}

func refuse(status int) Answer {
	return Answer{status: status, body: map[string]string{"detail": refused[status]}}
}

func (s *Server) verify(header string) (string, bool) {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	s.lock.RLock()
	known, found := s.tokens[token]
	s.lock.RUnlock()
	if !found {
		claims := jwt.StandardClaims{}
		parser := jwt.Parser{ValidMethods: []string{"HS256"}}
		_, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return s.secret, nil })
		if err != nil || claims.Subject == "" || claims.ExpiresAt == 0 {
			return "", false
		}
		known = Verified{claims.Subject, claims.ExpiresAt}
		s.lock.Lock()
		if len(s.tokens) >= rememberedTokens {
			s.tokens = map[string]Verified{}
		}
		s.tokens[token] = known
		s.lock.Unlock()
	}
	return known.userId, time.Now().Unix() < known.expiresAt
}

func scan(row pgx.Row, task *Task) error {
	return row.Scan(&task.Id, &task.UserId, &task.Title, &task.Description, &task.Completed, &task.CreatedAt, &task.UpdatedAt)
}

func (s *Server) one(ctx context.Context, statement string, values ...any) Answer {
	task := Task{}
	switch err := scan(s.pool.QueryRow(ctx, statement, values...), &task); {
	case errors.Is(err, pgx.ErrNoRows):
		return refuse(404)
	case err != nil:
		return refuse(500)
	}
	return Answer{status: 200, body: task}
}

func (s *Server) page(ctx context.Context, request *http.Request, userId string) Answer {
	limit, query := 50, request.URL.Query()
	if text := query.Get("limit"); text != "" {
		number, err := strconv.Atoi(text)
		if err != nil || number < 1 || number > 100 {
			return refuse(400)
		}
		limit = number
	}
	statement, values := list, []any{userId, limit + 1}
	if cursor := query.Get("cursor"); cursor != "" {
		statement, values = listAfter, append(values, cursor)
	}
	rows, err := s.pool.Query(ctx, statement, values...)
	if err != nil {
		return refuse(500)
	}
	defer rows.Close()
	page := Page{Items: make([]Task, 0, limit)}
	for rows.Next() {
		task := Task{}
		if scan(rows, &task) != nil {
			return refuse(500)
		}
		if len(page.Items) == limit {
			page.NextCursor = &page.Items[limit-1].Id
			break
		}
		page.Items = append(page.Items, task)
	}
	return Answer{status: 200, body: page}
}

func read(writer http.ResponseWriter, request *http.Request) (Content, bool) {
	content := Content{}
	decoder := json.NewDecoder(http.MaxBytesReader(writer, request.Body, bodyLimitBytes))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&content) != nil || content.Title == nil {
		return content, false
	}
	length := utf8.RuneCountInString(*content.Title)
	return content, length >= 1 && length <= 200 && (content.Description == nil || utf8.RuneCountInString(*content.Description) <= 2000)
}

func (s *Server) answer(writer http.ResponseWriter, request *http.Request) Answer {
	parts := strings.Split(request.URL.Path, "/")
	if len(parts) < 4 || len(parts) > 6 || parts[1] != "api" || parts[3] != "tasks" || (len(parts) == 6 && parts[5] != "complete") {
		return refuse(404)
	}
	userId, valid := s.verify(request.Header.Get("Authorization"))
	if !valid {
		return refuse(401)
	}
	if userId != parts[2] {
		return refuse(403)
	}
	ctx := request.Context()
	switch route := request.Method + " " + strconv.Itoa(len(parts)); route {
	case "GET 4":
		return s.page(ctx, request, userId)
	case "POST 4":
		content, valid := read(writer, request)
		if !valid || content.Completed != nil {
			return refuse(400)
		}
		id := uuid7()
		answer := s.one(ctx, create, userId, id, *content.Title, content.Description)
		if answer.status == 200 {
			answer.status, answer.location = 201, request.URL.Path+"/"+id
		}
		return answer
	case "GET 5":
		return s.one(ctx, get, userId, parts[4])
	case "PUT 5":
		content, valid := read(writer, request)
		if !valid {
			return refuse(400)
		}
		return s.one(ctx, replace, userId, parts[4], *content.Title, content.Description, content.Completed)
	case "PATCH 6":
		return s.one(ctx, toggle, userId, parts[4])
	}
	return refuse(405)
}

func (s *Server) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	began := time.Now()
	answer := s.answer(writer, request)
	body, err := json.Marshal(answer.body)
	if err != nil {
		answer, body = refuse(500), []byte("{}")
	}
	writer.Header().Set("Content-Type", "application/json")
	writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if answer.location != "" {
		writer.Header().Set("Location", answer.location)
	}
	writer.WriteHeader(answer.status)
	_, _ = writer.Write(body)
	log.Printf(`{"method":%q,"path":%q,"status":%d,"microseconds":%d}`, request.Method, request.URL.Path, answer.status, time.Since(began).Microseconds())
}

// Version 7 (RFC 9562, section 5.7).
func uuid7() string {
	bytes := [16]byte{}
	_, _ = rand.Read(bytes[6:])
	milliseconds := time.Now().UnixMilli()
	for i := 5; i >= 0; i-- {
		bytes[i] = byte(milliseconds)
		milliseconds >>= 8
	}
	bytes[6] = 0x70 | bytes[6]&0x0f
	bytes[8] = 0x80 | bytes[8]&0x3f
	digits := hex.EncodeToString(bytes[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
}

func main() {
	runtime.GOMAXPROCS(threads)
	pool, err := pgxpool.Connect(context.Background(), fmt.Sprintf("pool_min_conns=%d pool_max_conns=%d", poolSize, poolSize))
	if err != nil {
		log.Fatal(err)
	}
	server := &Server{pool: pool, secret: []byte(os.Getenv("JWT_SECRET")), tokens: map[string]Verified{}}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), server))
}
