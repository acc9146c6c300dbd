// Fastify and pg on Node, as fast as their documentation teaches: schemas compiled for requests and responses, named
// (prepared) statements, one statement an operation, verified tokens remembered. No row-level security. PGHOST and its kin
// name the database. One line of access log for each request, as everybody has.
import { randomBytes } from 'node:crypto'
import fastify from 'fastify'
import { createVerifier } from 'fast-jwt'
import pg from 'pg'

const POOL_SIZE = 16
const REMEMBERED_TOKENS = 10_000

const pool = new pg.Pool({ max: POOL_SIZE, min: POOL_SIZE })
const verify = createVerifier({
  key: process.env.JWT_SECRET, algorithms: ['HS256'], requiredClaims: ['exp', 'sub'], cache: REMEMBERED_TOKENS
})
const app = fastify({ logger: true, disableRequestLogging: true })

const columns = 'id, user_id, title, description, completed, created_at, updated_at'
const changed = 'version = version + 1, updated_at = now()'
const statements = {
  get: `select ${columns} from tasks where user_id = $1 and id = $2`,
  list: `select ${columns} from tasks where user_id = $1 order by id desc limit $2`,
  listAfter: `select ${columns} from tasks where user_id = $1 and id < $3 order by id desc limit $2`,
  create: `insert into tasks (user_id, id, title, description) values ($1, $2, $3, $4) returning ${columns}`,
  replace: `update tasks set title = $3, description = $4, completed = coalesce($5, completed), ${changed}
    where user_id = $1 and id = $2 returning ${columns}`,
  toggle: `update tasks set completed = not completed, ${changed} where user_id = $1 and id = $2 returning ${columns}`
}
const run = (name, values) => pool.query({ name, text: statements[name], values }).then(result => result.rows)

const nullable = type => ({ anyOf: [type, { type: 'null' }] })
const uuid = { type: 'string', format: 'uuid' }
const time = { type: 'string', format: 'date-time' }
const title = { type: 'string', minLength: 1, maxLength: 200 }
const description = { type: 'string', maxLength: 2000, nullable: true }
const completed = { type: 'boolean' }
const task = {
  type: 'object',
  required: ['id', 'user_id', 'title', 'description', 'completed', 'created_at', 'updated_at'],
  properties: {
    id: { type: 'string' }, user_id: { type: 'string' }, title: { type: 'string' },
    description: { type: 'string', nullable: true }, completed, created_at: time, updated_at: time
  }
}
const page = {
  type: 'object',
  required: ['items', 'next_cursor'],
  properties: { items: { type: 'array', items: task }, next_cursor: nullable({ type: 'string' }) }
}
const content = properties => ({ type: 'object', required: ['title'], additionalProperties: false, properties })
const ofUser = { type: 'object', properties: { user_id: { type: 'string' } } }
const ofTask = { type: 'object', properties: { user_id: { type: 'string' }, task_id: uuid } }

function fail (status, message) {
  throw Object.assign(new Error(message), { statusCode: status })
}

app.addHook('onRequest', async request => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ')
  let claims
  try {
    if (scheme.toLowerCase() === 'bearer') claims = verify(token)
  } catch { /* what cannot be verified is not valid */ }
  if (!claims) fail(401, 'Not authenticated')
  if (claims.sub !== request.params.user_id) fail(403, 'Not yours')
})
app.addHook('onResponse', async (request, reply) => {
  request.log.info({ method: request.method, url: request.url, status: reply.statusCode, milliseconds: reply.elapsedTime })
})

const one = rows => rows[0] ?? fail(404, 'Task not found')

app.get('/api/:user_id/tasks', {
  schema: {
    params: ofUser,
    querystring: {
      type: 'object',
      properties: { limit: { type: 'integer', minimum: 1, maximum: 100, default: 50 }, cursor: uuid }
    },
    response: { 200: page }
  }
}, async ({ params, query: { limit, cursor } }) => {
  const values = [params.user_id, limit + 1]
  const rows = cursor ? await run('listAfter', [...values, cursor]) : await run('list', values)
  return { items: rows.slice(0, limit), next_cursor: rows.length > limit ? rows[limit - 1].id : null }
})

app.post('/api/:user_id/tasks', {
  schema: { params: ofUser, body: content({ title, description }), response: { 201: task } }
}, async ({ params, body }, reply) => {
  const row = one(await run('create', [params.user_id, uuid7(), body.title, body.description ?? null]))
  reply.code(201).header('Location', `/api/${params.user_id}/tasks/${row.id}`)
  return row
})

app.get('/api/:user_id/tasks/:task_id', { schema: { params: ofTask, response: { 200: task } } },
  async ({ params }) => one(await run('get', [params.user_id, params.task_id])))

app.put('/api/:user_id/tasks/:task_id', {
  schema: { params: ofTask, body: content({ title, description, completed }), response: { 200: task } }
}, async ({ params, body }) => one(await run('replace', [
  params.user_id, params.task_id, body.title, body.description ?? null, body.completed ?? null
])))

app.patch('/api/:user_id/tasks/:task_id/complete', { schema: { params: ofTask, response: { 200: task } } },
  async ({ params }) => one(await run('toggle', [params.user_id, params.task_id])))

// Version 7 (RFC 9562, section 5.7).
function uuid7 () {
  const bytes = randomBytes(16)
  bytes.writeUIntBE(Date.now(), 0, 6)
  bytes[6] = 0x70 | (bytes[6] & 0x0f)
  bytes[8] = 0x80 | (bytes[8] & 0x3f)
  const hex = bytes.toString('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
