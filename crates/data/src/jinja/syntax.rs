//! What a template consists of once it is parsed.

use std::sync::Arc;

pub(super) type Body = Vec<Statement>;

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: usize,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    If {
        branches: Vec<(Expr, Body)>,
        otherwise: Body,
    },
    For(Box<For>),
    Set {
        target: Target,
        value: Expr,
    },
    SetBlock {
        target: Target,
        filters: Vec<Post>,
        body: Body,
    },
    Macro(Arc<Macro>),
    With {
        names: Vec<(Target, Expr)>,
        body: Body,
    },
    Filter {
        filters: Vec<Post>,
        body: Body,
    },
    /// `{% generation %}`: what the assistant says. It changes no text; variables set inside stay inside.
    Generation(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Body,
}

/// What a value is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    /// A field of a namespace.
    Field(String, String),
    Several(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Expr {
    Str(String),
    Int(i128),
    Float(f64),
    Bool(bool),
    None,
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Operators of one precedence, from left to right.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    /// Texts put together with `~`.
    Concat(Vec<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Choice {
        then: Box<Expr>,
        condition: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
    Postfix(Box<Expr>, Vec<Post>),
}

#[derive(Debug)]
pub(super) enum Post {
    Attribute(String),
    Item(Expr),
    Slice([Option<Expr>; 3]),
    Call(Arguments),
    Filter(String, Arguments),
    Test { name: String, arguments: Arguments, negated: bool },
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}
